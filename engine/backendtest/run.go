package backendtest

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
)

// Run tests a backend in subtests of t. Open returns a new backend, which must be empty,
// as often as it is called; the suite closes it. What open needs to end it does with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) engine.Backend) {
	t.Helper()
	Harness{Open: open}.Run(t)
}

// Harness says how the suite gets the backends that it tests. Only Open is always
// required. But for Payload, its functions are called by the goroutine of the subtest t.
type Harness struct {
	// Open returns a new backend that is empty. The suite closes it.
	Open func(t *testing.T) engine.Backend

	// Reopen returns a new backend over the place of old, which is closed. Required if
	// Caps say Reopen.
	Reopen func(t *testing.T, old engine.Backend) engine.Backend

	// Crash returns a new backend over what would be left of the place of old if the process,
	// or the machine if that is what the backend withstands, had died at this moment. Old is open, and not used any more;
	// Crash ends it. Without it the cases of a Durable backend that need it are skipped.
	Crash func(t *testing.T, old engine.Backend) engine.Backend

	// Join returns a second backend over the place of other, which stays open: another
	// writer. Required if Caps say Shared.
	Join func(t *testing.T, other engine.Backend) engine.Backend

	// Payload returns the i-th payload: one that the backend can keep, the same for the
	// same i, different for different i, and equal by reflect.DeepEqual to what is read back. It
	// is called from many goroutines at once. Default: strings and []byte in turn; if Caps say
	// Encoded, each is given to the backend as the *engine.Payload that an engine makes of it, and
	// there can be no other.
	Payload func(i int) any
}

// Run runs all cases as subtests of t.
func (h Harness) Run(t *testing.T) {
	t.Helper()
	// What a library starts once a process, at its first use, is not the backend's leak.
	b := h.Open(t)
	caps := b.Caps()
	if err := b.Close(); err != nil {
		t.Fatalf("Close of a new backend: %v", err)
	}
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			s := &suite{tb: t, env: h.env(t, caps)}
			defer func() {
				if t.Failed() {
					t.Logf("why there is this rule: %s", c.why)
				}
			}()
			s.run(c)
		})
	}
}

// env is a Harness bound to one test.
type env struct {
	caps     engine.Caps
	open     func() engine.Backend
	reopen   func(old engine.Backend) engine.Backend   // nil if the Harness has none
	crash    func(old engine.Backend) engine.Backend   // nil if the Harness has none
	join     func(other engine.Backend) engine.Backend // nil if the Harness has none
	payload  func(i int) any                           // for the backend
	value    func(i int) any                           // for an engine over it
	standard bool                                      // payload is the default: others of its kinds will do too
	patience time.Duration                             // until what has not happened is taken to be stuck
}

func (h Harness) env(t *testing.T, caps engine.Caps) env {
	bind := func(fn func(*testing.T, engine.Backend) engine.Backend) func(engine.Backend) engine.Backend {
		if fn == nil {
			return nil
		}
		return func(b engine.Backend) engine.Backend { return fn(t, b) }
	}
	e := env{
		caps:     caps,
		open:     func() engine.Backend { return h.Open(t) },
		reopen:   bind(h.Reopen),
		crash:    bind(h.Crash),
		join:     bind(h.Join),
		payload:  h.Payload,
		value:    h.Payload,
		patience: 30 * time.Second,
	}
	if e.payload == nil {
		e.payload, e.value, e.standard = standardPayload, standardPayload, true
	}
	if caps.Encoded {
		value := e.value
		e.payload = func(i int) any { return encoded(value(i)) }
	}
	return e
}

// encoded returns a string or []byte as an engine gives it to a backend that stores
// bytes, in memory of its own.
func encoded(v any) any {
	switch v := v.(type) {
	case string:
		return &engine.Payload{Encoding: engine.EncodingText, Schema: 1, Bytes: []byte(v)}
	case []byte:
		return &engine.Payload{Encoding: engine.EncodingBytes, Schema: 1, Bytes: append([]byte{}, v...)}
	case json.RawMessage:
		return &engine.Payload{Encoding: engine.EncodingJSON, Schema: 1, Bytes: append([]byte{}, v...)}
	}
	return v
}

func standardPayload(i int) any {
	text := "payload " + strconv.Itoa(i)
	if i%2 == 1 {
		return []byte(text)
	}
	return text
}

// testCase is one rule of the contract.
type testCase struct {
	name  string
	why   string // there is this rule; shown when the case fails
	needs string // the field of Caps without which there is nothing to test
	run   func(s *suite)
}

// cases returns all of them, the simple ones first: what they find broken explains the
// failures of those that follow.
func cases() []testCase {
	return slices.Concat(
		capsCases,
		commitCases,
		batchCases,
		keepCases,
		readCases,
		typeCases,
		findCases,
		contextCases,
		checkpointCases,
		parkedCases,
		retentionCases,
		tagCases,
		snapshotCases,
		concurrentCases,
		closeCases,
		reopenCases,
		sharedCases,
		engineCases,
	)
}

// tb is what cases use of *testing.T. The suite's own test has another one, which records.
type tb interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Failed() bool
	Context() context.Context
}

// suite is one case under way.
type suite struct {
	tb
	env
	opened []engine.Backend
}

var runs atomic.Uint64 // numbers the cases run, to tell their goroutines apart

func (s *suite) run(c testCase) {
	s.Helper()
	if c.needs != "" && !claims(s.caps, c.needs) {
		s.Skipf("Caps.%s is false", c.needs)
	}
	// Goroutines inherit the labels of those who start them: that is how the backend's
	// are known among all others, whatever runs beside this test.
	label := strconv.FormatUint(runs.Add(1), 10)
	pprof.Do(s.Context(), pprof.Labels(labelKey, label), func(context.Context) {
		defer s.closeAll()
		c.run(s)
	})
	s.checkGoroutines(label)
}

func claims(c engine.Caps, flag string) bool {
	switch flag {
	case "Durable":
		return c.Durable
	case "Prompt":
		return c.Prompt
	case "Shared":
		return c.Shared
	case "Reopen":
		return c.Reopen
	}
	panic("backendtest: no flag " + flag)
}

// add makes the suite close b at the end of the case.
func (s *suite) add(b engine.Backend) engine.Backend {
	s.opened = append(s.opened, b)
	return b
}

// new returns a new backend that is empty.
func (s *suite) new() engine.Backend { return s.add(s.open()) }

// again closes b and returns a new one over its place.
func (s *suite) again(b engine.Backend) engine.Backend {
	s.Helper()
	if s.reopen == nil {
		s.Fatalf("Caps.Reopen is true, and the Harness has no Reopen")
	}
	if err := b.Close(); err != nil {
		s.Fatalf("Close: %v", err)
	}
	return s.add(s.reopen(b))
}

// second returns another writer to b's place.
func (s *suite) second(b engine.Backend) engine.Backend {
	s.Helper()
	if s.join == nil {
		s.Fatalf("Caps.Shared is true, and the Harness has no Join")
	}
	return s.add(s.join(b))
}

// closeAll also closes what is closed already, which is no error.
func (s *suite) closeAll() {
	for _, b := range s.opened {
		if err := b.Close(); err != nil {
			s.Errorf("Close at the end of the case: %v", err)
		}
	}
}

const labelKey = "weir/backendtest"

// checkGoroutines gives goroutines that are on their way out the time to go.
func (s *suite) checkGoroutines(label string) {
	s.Helper()
	left := goroutines(label)
	for end := time.Now().Add(s.patience / 10); len(left) > 0 && time.Now().Before(end); left = goroutines(label) {
		<-time.After(time.Millisecond)
	}
	if len(left) > 0 {
		s.Errorf("Close has left goroutines behind:\n%s", strings.Join(left, "\n"))
	}
}

// goroutines returns the stacks of those that carry the label.
func goroutines(label string) (stacks []string) {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		panic(err) // a bytes.Buffer does not fail
	}
	want := strconv.Quote(labelKey) + ":" + strconv.Quote(label)
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(stack, want) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

// eventually waits until ok, which it asks every millisecond, and reports whether that
// happened in time.
func (s *suite) eventually(ok func() bool) bool {
	for end := time.Now().Add(s.patience / 3); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}
