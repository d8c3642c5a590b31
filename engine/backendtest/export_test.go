package backendtest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Cases returns the names of all cases.
func Cases() (names []string) {
	for _, c := range cases() {
		names = append(names, c.name)
	}
	return names
}

// Judge runs one case and returns what it has to say against the backend; t does not fail.
func (h Harness) Judge(t *testing.T, name string, patience time.Duration) (verdict string) {
	r := &recorder{ctx: t.Context()}
	b := h.Open(t)
	s := &suite{tb: r, env: h.env(t, b.Caps())}
	b.Close()
	s.patience = patience
	for _, c := range cases() {
		if c.name != name {
			continue
		}
		done := make(chan struct{})
		go func() { // Fatalf ends it
			defer close(done)
			defer func() {
				if v := recover(); v != nil {
					r.Errorf("panic: %v", v)
				}
			}()
			s.run(c)
		}()
		<-done
		r.mu.Lock()
		defer r.mu.Unlock()
		return strings.Join(r.failures, "\n")
	}
	panic("no case " + name)
}

// recorder is a tb whose failures are nobody's.
type recorder struct {
	ctx      context.Context
	mu       sync.Mutex
	failures []string
}

func (r *recorder) Helper()                  {}
func (r *recorder) Logf(string, ...any)      {}
func (r *recorder) Context() context.Context { return r.ctx }

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skipf(string, ...any) { runtime.Goexit() }

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}
