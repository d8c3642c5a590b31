package backendtest_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirstore/weir/engine"
	"github.com/weirstore/weir/engine/backendtest"
)

// closeDefects are what is wrong after Close, or not over.
func closeDefects() []defect {
	return []defect{
		breaks("ErrClosed missing", func(b *broken) {
			b.types = func(after engine.Position, dst []engine.TypeID) (int, error) {
				return b.place.mem.Types(after, dst)
			}
		}, "closed", "close-while-busy"),
		breaks("another error after Close", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				if b.handle.check() != nil {
					return errors.New("sql: database is closed")
				}
				return b.handle.Commit(ctx, writes)
			}
		}, "closed", "close-while-busy"),
		breaks("a second Close fails", func(b *broken) {
			var done atomic.Bool
			b.close = func() error {
				if done.Swap(true) {
					return engine.ErrClosed
				}
				return b.handle.Close()
			}
		}, "close-twice"),
		breaks("a call hangs after Close", func(b *broken) {
			b.saveCheckpoint = func(handler string, pos engine.Position) error {
				if b.handle.check() != nil {
					<-time.After(time.Second) // for ever, as far as the case can tell
				}
				return b.save(handler, pos)
			}
		}, "closed", "close-while-busy"),
		breaks("Close does not close", func(b *broken) {
			b.close = func() error { return nil }
		}, "closed", "engine", "engine-conflict", "engine-storm", "engine-shared"),
		breaks("Close waits for a call that waits for Close", func(b *broken) {
			var calls sync.RWMutex
			b.load = func(stream string) (engine.StreamState, error) {
				calls.RLock()
				defer calls.RUnlock()
				state, err := b.handle.Load(ctx, stream)
				if err != nil {
					<-time.After(time.Second) // for ever, as far as the case can tell
				}
				return state, err
			}
		}, "closed", "close-while-busy"),
		breaks("a goroutine left", func(b *broken) {
			quit := make(chan struct{})
			b.watch = func(grown func()) {
				go func() {
					select {
					case <-quit:
					case <-time.After(time.Second):
					}
				}()
				b.handle.Watch(grown)
			}
		}, "no-goroutines-left", "engine"),
	}
}

// reopenDefects are what is not there any more.
func reopenDefects() []defect {
	plain := func(h *handle) engine.Backend { return h }
	// rebuilt returns a copy of a place with what keep wants.
	rebuilt := func(b engine.Backend, keep func(*engine.Event) bool) *place {
		old, fresh := b.(located).at(), newHandle()
		dst := make([]engine.Event, int(old.mem.Head()))
		old.mem.ReadAll(ctx, engine.Query{From: 1, To: old.mem.Head()}, dst)
		states := make(map[string]*engine.StreamState)
		for _, e := range dst {
			if !keep(&e) {
				continue
			}
			if states[e.Stream] == nil {
				states[e.Stream] = &engine.StreamState{Name: e.Stream}
			}
			id, _ := fresh.TypeID(e.Type)
			s := states[e.Stream]
			w := &engine.Write{Stream: s, After: s.Version, Events: []engine.Record{{Type: e.Type, TypeID: id, ID: e.ID, Data: e.Data, Meta: e.Meta}}}
			if err := fresh.Commit(ctx, []*engine.Write{w}); err != nil {
				panic(err)
			}
			s.Version++
		}
		return fresh.place
	}
	last := func(b engine.Backend) func(*engine.Event) bool {
		head := b.(located).at().mem.Head()
		return func(e *engine.Event) bool { return e.Position != head }
	}
	return []defect{
		{
			name: "the last event is not there again", plant: plain,
			caught: []string{"reopen", "reopen-again-and-again", "reopen-large-batches", "close-while-busy", "engine-reopen"},
			harness: func(h *backendtest.Harness) {
				h.Reopen = func(_ *testing.T, b engine.Backend) engine.Backend { return rebuilt(b, last(b)).open() }
			},
		},
		{
			name: "checkpoints are not there again", plant: plain, caught: []string{"reopen", "engine-reopen"},
			harness: func(h *backendtest.Harness) {
				h.Reopen = func(_ *testing.T, b engine.Backend) engine.Backend {
					return rebuilt(b, func(*engine.Event) bool { return true }).open()
				}
			},
		},
		{
			name: "an empty store opens with something in it", plant: plain, caught: []string{"reopen-empty"},
			harness: func(h *backendtest.Harness) {
				h.Reopen = func(_ *testing.T, b engine.Backend) engine.Backend {
					again := b.(located).at().open()
					s := engine.StreamState{Name: "header"}
					again.place.mem.Commit(ctx, []*engine.Write{{Stream: &s, Events: []engine.Record{{Type: "A", TypeID: 1}}}})
					return again
				}
			},
		},
		{
			name: "acknowledged before durable", plant: plain, caught: []string{"crash"},
			harness: func(h *backendtest.Harness) {
				h.Crash = func(_ *testing.T, b engine.Backend) engine.Backend { return rebuilt(b, last(b)).open() }
			},
		},
		{
			name: "Caps promise what the Harness cannot show", plant: plain, caught: []string{"caps"},
			harness: func(h *backendtest.Harness) { h.Reopen = nil },
		},
	}
}

// encodedDefects are payloads of bytes that come back changed.
func encodedDefects() []defect {
	buffer := make([]byte, 100)
	return []defect{
		loses("Schema lost", func(p *engine.Payload) { p.Schema = 1 }, "keeps-payloads"),
		loses("Schema of one byte", func(p *engine.Payload) { p.Schema &= 0xff }, "keeps-payloads"),
		loses("Encoding lost", func(p *engine.Payload) { p.Encoding = "" }, "keeps-payloads", "positions-are-dense"),
		loses("an unknown encoding taken for bytes", func(p *engine.Payload) {
			switch p.Encoding {
			case engine.EncodingText, engine.EncodingJSON:
			default:
				p.Encoding = engine.EncodingBytes
			}
		}, "keeps-payloads"),
		loses("text taken for bytes", func(p *engine.Payload) {
			if p.Encoding == engine.EncodingText {
				p.Encoding = engine.EncodingBytes
			}
		}, "keeps-payloads", "engine", "engine-reopen"),
		loses("JSON written anew", func(p *engine.Payload) {
			if p.Encoding == engine.EncodingJSON {
				p.Bytes = bytes.ReplaceAll(p.Bytes, []byte(" "), nil)
			}
		}, "keeps-payloads"),
		loses("one buffer for all bytes that are read", func(p *engine.Payload) {
			if len(p.Bytes) <= len(buffer) {
				p.Bytes = buffer[:copy(buffer, p.Bytes)]
			}
		}, "reads-do-not-share-memory"),
		{
			name: "bytes changed where the caller has them", caught: []string{"keeps-payloads"},
			plant: func(h *handle) engine.Backend {
				b := encodes(h, func(*engine.Payload) {})
				commit := b.commit
				b.commit = func(ctx context.Context, writes []*engine.Write) error {
					for _, w := range writes {
						for _, r := range w.Events {
							if p, ok := r.Data.(*engine.Payload); ok && len(p.Bytes) > 1000 {
								p.Bytes[0] ^= 1 // as a cipher would that works in place
							}
						}
					}
					return commit(ctx, writes)
				}
				return b
			},
		},
		{
			name: "a Payload for bytes", caught: []string{"caps"},
			plant:   func(h *handle) engine.Backend { return encodes(h, func(*engine.Payload) {}) },
			harness: func(h *backendtest.Harness) { h.Payload = func(i int) any { return i } },
		},
	}
}

// sharedDefects are writers that know nothing of each other.
func sharedDefects() []defect {
	return []defect{
		breaks("no conflict", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				b.place.mu.Lock()
				defer b.place.mu.Unlock()
				return b.place.store(ctx, writes)
			}
		}, "shared-conflict", "shared-storm"),
		breaks("Watch ignored", func(b *broken) {
			b.watch = func(func()) {}
		}, "shared-sees-others", "engine-shared"),
		breaks("a conflict that is another error", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				err := b.handle.Commit(ctx, writes)
				if _, conflict := errors.AsType[*engine.VersionConflictError](err); conflict {
					return errors.New("wrong last sequence")
				}
				return err
			}
		}, "shared-conflict", "shared-storm"),
	}
}
