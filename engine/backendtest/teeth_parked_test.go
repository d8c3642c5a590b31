package backendtest_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirstore/weir/engine"
)

// parkedSee makes a defect of what Parked returns.
func parkedSee(name string, see func(p *engine.ParkedRecord), caught ...string) defect {
	return breaks(name, func(b *broken) {
		b.parked = func(handler string) ([]engine.ParkedRecord, error) {
			list, err := b.handle.Parked(ctx, handler)
			for i := range list {
				see(&list[i])
			}
			return list, err
		}
	}, caught...)
}

// parkedAs makes a defect of the names under which lists are kept.
func parkedAs(name string, as func(handler string) string, caught ...string) defect {
	return breaks(name, func(b *broken) {
		b.park = func(handler string, p engine.ParkedRecord) error { return b.handle.Park(ctx, as(handler), p) }
		b.unpark = func(handler string, pos engine.Position) error { return b.handle.Unpark(ctx, as(handler), pos) }
		b.parked = func(handler string) ([]engine.ParkedRecord, error) { return b.handle.Parked(ctx, as(handler)) }
	}, caught...)
}

// parkedDefects are checkpoints and parked lists that are not what was given.
func parkedDefects() []defect {
	return []defect{
		breaks("the first checkpoint of a batch alone", func(b *broken) {
			b.saveAll = func(list []engine.Checkpoint) error { return b.handle.SaveCheckpoints(ctx, list[:min(1, len(list))]) }
		}, "checkpoints-in-a-batch"),
		breaks("a batch of checkpoints up to the first that goes back", func(b *broken) {
			b.saveAll = func(list []engine.Checkpoint) error {
				for _, c := range list {
					if now, ok, _ := b.handle.LoadCheckpoint(ctx, c.Handler); ok && now > c.Position {
						return nil
					}
					if err := b.save(c.Handler, c.Position); err != nil {
						return err
					}
				}
				return nil
			}
		}, "checkpoints-in-a-batch"),
		breaks("the caller's list of checkpoints kept", func(b *broken) {
			var kept []engine.Checkpoint
			b.saveAll = func(list []engine.Checkpoint) error {
				kept = list // to be written with the next ones
				return b.handle.SaveCheckpoints(ctx, list)
			}
			b.loadCheckpoint = func(handler string) (engine.Position, bool, error) {
				if err := b.handle.SaveCheckpoints(ctx, kept); err != nil {
					return 0, false, err
				}
				if len(kept) > 0 && kept[0].Handler == "" {
					return 0, false, nil
				}
				return b.handle.LoadCheckpoint(ctx, handler)
			}
		}, "checkpoints-in-a-batch"),

		breaks("what is parked again goes to the end", func(b *broken) {
			b.park = func(handler string, p engine.ParkedRecord) error {
				return errors.Join(b.handle.Unpark(ctx, handler, p.Position), b.handle.Park(ctx, handler, p))
			}
		}, "parked"),
		breaks("what is parked again stays as it was", func(b *broken) {
			b.park = func(handler string, p engine.ParkedRecord) error {
				list, err := b.handle.Parked(ctx, handler)
				if err != nil || slices.ContainsFunc(list, func(q engine.ParkedRecord) bool { return q.Position == p.Position }) {
					return err
				}
				return b.handle.Park(ctx, handler, p)
			}
		}, "parked", "parked-crash"),
		breaks("parked in the order of positions", func(b *broken) {
			b.parked = func(handler string) ([]engine.ParkedRecord, error) {
				list, err := b.handle.Parked(ctx, handler)
				slices.SortFunc(list, func(p, q engine.ParkedRecord) int { return int(p.Position) - int(q.Position) })
				return list, err
			}
		}, "parked"),
		breaks("one list for all handlers", func(b *broken) {
			b.unpark = func(handler string, pos engine.Position) error {
				return errors.Join(b.handle.Unpark(ctx, handler, pos), b.handle.Unpark(ctx, "other", pos))
			}
		}, "parked"),
		breaks("the oldest is unparked", func(b *broken) {
			b.unpark = func(handler string, pos engine.Position) error {
				if list, _ := b.handle.Parked(ctx, handler); len(list) > 0 {
					pos = list[0].Position
				}
				return b.handle.Unpark(ctx, handler, pos)
			}
		}, "parked", "parked-reopen"),
		breaks("unparking what is not there is an error", func(b *broken) {
			b.unpark = func(handler string, pos engine.Position) error {
				before, _ := b.handle.Parked(ctx, handler)
				err := b.handle.Unpark(ctx, handler, pos)
				if after, _ := b.handle.Parked(ctx, handler); err == nil && len(after) == len(before) {
					return errors.New("not parked")
				}
				return err
			}
		}, "parked"),
		breaks("unparked handlers leave an entry", func(b *broken) {
			b.unpark = func(string, engine.Position) error { return nil }
		}, "parked", "parked-names", "parked-concurrently", "parked-reopen", "parked-crash"),
		breaks("one list in memory for all who ask", func(b *broken) {
			var mu sync.Mutex
			lists := make(map[string][]engine.ParkedRecord)
			b.parked = func(handler string) ([]engine.ParkedRecord, error) {
				list, err := b.handle.Parked(ctx, handler)
				mu.Lock()
				defer mu.Unlock()
				if old := lists[handler]; len(old) != len(list) {
					lists[handler] = list
				}
				return lists[handler], err
			}
		}, "parked"),
		parkedSee("a parked event's stack cut", func(p *engine.ParkedRecord) { p.Stack = p.Stack[:min(len(p.Stack), 32<<10)] }, "parked"),
		parkedSee("a parked event's time in milliseconds", func(p *engine.ParkedRecord) { p.Time = p.Time.Truncate(time.Millisecond) }, "parked", "parked-reopen", "parked-crash"),
		parkedSee("a parked event's attempts lost", func(p *engine.ParkedRecord) { p.Attempts = 1 }, "parked"),
		parkedSee("a parked event's key lost", func(p *engine.ParkedRecord) { p.Key = "" }, "parked", "parked-reopen"),
		parkedSee("a held event taken for one that failed", func(p *engine.ParkedRecord) { p.Held = false }, "parked", "parked-reopen"),

		parkedAs("parked lists by names in lower case", strings.ToLower, "parked"),
		parkedAs("parked lists by names without spaces at their ends", strings.TrimSpace, "parked-names"),
		parkedAs("parked lists by the first bytes of names", func(s string) string { return s[:min(len(s), engine.MaxName-1)] }, "parked-names"),

		breaks("parked lists read, changed and written", func(b *broken) {
			var mu sync.Mutex
			lists := make(map[string][]engine.ParkedRecord)
			get := func(handler string) []engine.ParkedRecord {
				mu.Lock()
				defer mu.Unlock()
				return slices.Clone(lists[handler])
			}
			meet := make(map[string]chan struct{}) // two who change one list at once
			change := func(handler string, fn func([]engine.ParkedRecord) []engine.ParkedRecord) error {
				list := fn(get(handler))
				mu.Lock()
				if meet[handler] == nil {
					meet[handler] = make(chan struct{})
				}
				other := meet[handler]
				mu.Unlock()
				select {
				case other <- struct{}{}:
				case <-other:
				case <-time.After(time.Millisecond):
				}
				mu.Lock()
				defer mu.Unlock()
				lists[handler] = list
				return nil
			}
			b.park = func(handler string, p engine.ParkedRecord) error {
				return change(handler, func(list []engine.ParkedRecord) []engine.ParkedRecord { return append(list, p) })
			}
			b.unpark = func(handler string, pos engine.Position) error {
				return change(handler, func(list []engine.ParkedRecord) []engine.ParkedRecord {
					return slices.DeleteFunc(list, func(p engine.ParkedRecord) bool { return p.Position == pos })
				})
			}
			b.parked = func(handler string) ([]engine.ParkedRecord, error) { return get(handler), nil }
		}, "parked-concurrently"),
		breaks("parked lists in memory alone", func(b *broken) { remember(b, func(string) bool { return false }) }, "parked-reopen", "parked-crash"),
		breaks("parked lists stored with the handler's checkpoint", func(b *broken) {
			// Reading them is no reason to store them: only their own handler's checkpoint is.
			remember(b, func(string) bool { return true })
		}, "parked-crash"),
		breaks("what is unparked is forgotten in memory alone", func(b *broken) {
			var mu sync.Mutex
			gone := make(map[string]map[engine.Position]bool)
			b.unpark = func(handler string, pos engine.Position) error {
				mu.Lock()
				defer mu.Unlock()
				if gone[handler] == nil {
					gone[handler] = make(map[engine.Position]bool)
				}
				gone[handler][pos] = true
				return nil
			}
			b.park = func(handler string, p engine.ParkedRecord) error {
				mu.Lock()
				defer mu.Unlock()
				delete(gone[handler], p.Position)
				return b.handle.Park(ctx, handler, p)
			}
			b.parked = func(handler string) ([]engine.ParkedRecord, error) {
				mu.Lock()
				defer mu.Unlock()
				list, err := b.handle.Parked(ctx, handler)
				return slices.DeleteFunc(list, func(p engine.ParkedRecord) bool { return gone[handler][p.Position] }), err
			}
		}, "parked-reopen", "parked-crash"),
	}
}

// remember makes b keep parked lists in memory, from where a checkpoint takes those of its
// handlers to the place, if stored says so.
func remember(b *broken, stored func(handler string) bool) {
	var mu sync.Mutex
	var lists map[string][]engine.ParkedRecord
	list := func(handler string) []engine.ParkedRecord {
		if lists == nil {
			lists = make(map[string][]engine.ParkedRecord)
		}
		if _, ok := lists[handler]; !ok {
			lists[handler], _ = b.handle.Parked(ctx, handler)
		}
		return lists[handler]
	}
	b.park = func(handler string, p engine.ParkedRecord) error {
		mu.Lock()
		defer mu.Unlock()
		l := list(handler)
		if i := slices.IndexFunc(l, func(q engine.ParkedRecord) bool { return q.Position == p.Position }); i >= 0 {
			l[i] = p
		} else {
			lists[handler] = append(l, p)
		}
		return nil
	}
	b.unpark = func(handler string, pos engine.Position) error {
		mu.Lock()
		defer mu.Unlock()
		lists[handler] = slices.DeleteFunc(list(handler), func(p engine.ParkedRecord) bool { return p.Position == pos })
		return nil
	}
	b.parked = func(handler string) ([]engine.ParkedRecord, error) {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(list(handler)), nil
	}
	b.saveAll = func(checkpoints []engine.Checkpoint) error {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range checkpoints {
			if !stored(c.Handler) {
				continue
			}
			old, err := b.handle.Parked(ctx, c.Handler)
			if err != nil {
				return err
			}
			for _, p := range old {
				if err := b.handle.Unpark(ctx, c.Handler, p.Position); err != nil {
					return err
				}
			}
			for _, p := range list(c.Handler) {
				if err := b.handle.Park(ctx, c.Handler, p); err != nil {
					return err
				}
			}
		}
		return b.handle.SaveCheckpoints(ctx, checkpoints)
	}
}

// retentionDefects are events that are not gone, and events that are and must not be.
func retentionDefects() []defect {
	again := func(name string, move func(engine.Version) engine.Version, caught ...string) defect {
		return breaks(name, func(b *broken) {
			b.truncate = func(s engine.StreamState, before engine.Version) error {
				return b.handle.Truncate(ctx, s, min(move(before), s.Version+1))
			}
		}, caught...)
	}
	rules := func(name string, change func(r *engine.RetentionRule), caught ...string) defect {
		return breaks(name, func(b *broken) {
			b.compact = func(ctx context.Context, list []engine.RetentionRule) (engine.Compaction, error) {
				list = slices.Clone(list)
				for i := range list {
					change(&list[i])
				}
				return b.handle.Compact(ctx, list)
			}
		}, caught...)
	}
	return []defect{
		again("truncated with the version itself", func(v engine.Version) engine.Version { return v + 1 }, "truncate", "truncate-every-range", "removed-ids", "compact"),
		again("truncated but for one", func(v engine.Version) engine.Version { return max(v, 1) - 1 }, "truncate", "truncate-every-range", "removed-ids", "compact", "removed-reopen"),
		breaks("a truncation that goes back", func(b *broken) { hide(b, false) }, "truncate"),
		breaks("a truncated stream read, the log not", func(b *broken) {
			hide(b, true)
			b.readAll = nil
		}, "truncate", "truncate-every-range", "compact"),
		breaks("the log truncated, its stream not", func(b *broken) {
			hide(b, true)
			b.readStream = nil
		}, "truncate", "truncate-every-range", "compact"),
		breaks("Types of what is removed", func(b *broken) {
			b.types = func(after engine.Position, dst []engine.TypeID) (int, error) {
				n, err := b.handle.Types(after, dst)
				for i := range dst[:n] {
					dst[i] = max(dst[i], 1)
				}
				return n, err
			}
		}, "truncate", "delete", "compact"),
		breaks("a stream without events is at version 0", func(b *broken) {
			b.load = func(stream string) (engine.StreamState, error) {
				s, err := b.handle.Load(ctx, stream)
				var dst [1]engine.Event
				if n, _, _ := b.handle.ReadStream(ctx, s, engine.StreamQuery{From: 1, To: s.Version}, dst[:]); n == 0 {
					s.Version = 0
				}
				return s, err
			}
		}, "truncate", "delete", "compact", "removed-reopen", "removed-crash"),
		breaks("a page ends at a gap", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				if n == 0 && err == nil && !q.Backward && q.From <= q.To && q.From <= b.handle.Head() {
					next = q.From
				}
				return n, next, err
			}
		}, "truncate-every-range"),
		breaks("the event behind a gap left out", func(b *broken) {
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				n, next, err := b.handle.ReadAll(ctx, q, dst)
				if n > 0 && !q.Backward && q.Filter.Types == nil && q.Filter.Categories == nil && dst[0].Position > q.From {
					n = copy(dst, dst[1:n])
				}
				return n, next, err
			}
		}, "truncate", "truncate-every-range", "compact"),

		breaks("deletion is a truncation", func(b *broken) {
			b.delete = func(s engine.StreamState) error { return b.handle.Truncate(ctx, s, s.Version+1) }
		}, "delete", "removed-reopen", "removed-crash"),
		breaks("a deleted name can be used again", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				err := b.handle.Commit(ctx, writes)
				if _, deleted := errors.AsType[*engine.StreamDeletedError](err); deleted {
					return nil
				}
				return err
			}
		}, "delete", "removed-reopen"),
		breaks("what comes with a write to a deleted stream is stored", func(b *broken) {
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				err := b.handle.Commit(ctx, writes)
				if deleted, ok := errors.AsType[*engine.StreamDeletedError](err); ok {
					for _, w := range writes {
						if w.Stream.Name != deleted.Stream {
							b.handle.Commit(ctx, []*engine.Write{w})
						}
					}
				}
				return err
			}
		}, "delete", "removed-reopen"),
		breaks("deleting twice is an error", func(b *broken) {
			b.delete = func(s engine.StreamState) error {
				if s.Deleted {
					return errors.New("it is deleted")
				}
				return b.handle.Delete(ctx, s)
			}
		}, "delete"),
		breaks("what was never there cannot be deleted", func(b *broken) {
			b.delete = func(s engine.StreamState) error {
				if s.Version == 0 {
					return nil
				}
				return b.handle.Delete(ctx, s)
			}
		}, "delete", "removed-reopen"),

		breaks("IDs of what is removed are kept", func(b *broken) {
			ids := make(map[string]engine.Version)
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				for _, w := range writes {
					for i, r := range w.Events {
						ids[w.Stream.Name+" "+r.ID] = w.After + engine.Version(i) + 1
					}
				}
				return b.handle.Commit(ctx, writes)
			}
			b.find = func(s engine.StreamState, list []string, versions []engine.Version) error {
				for i, id := range list {
					versions[i] = ids[s.Name+" "+id]
				}
				return nil
			}
		}, "removed-ids", "compact"),
		breaks("compaction forgets IDs", func(b *broken) {
			compacted := false
			b.compact = func(ctx context.Context, list []engine.RetentionRule) (engine.Compaction, error) {
				compacted = true
				return b.handle.Compact(ctx, list)
			}
			b.find = func(s engine.StreamState, list []string, versions []engine.Version) error {
				if compacted {
					clear(versions)
					return nil
				}
				return b.handle.Find(ctx, s, list, versions)
			}
		}, "removed-ids", "compact"),
		breaks("IDs of what is left are forgotten too", func(b *broken) {
			before := make(map[string]engine.Version)
			b.truncate = func(s engine.StreamState, v engine.Version) error {
				before[s.Name] = s.Version
				return b.handle.Truncate(ctx, s, v)
			}
			b.find = func(s engine.StreamState, list []string, versions []engine.Version) error {
				err := b.handle.Find(ctx, s, list, versions)
				for i, v := range versions[:len(list)] {
					if v <= before[s.Name] {
						versions[i] = 0
					}
				}
				return err
			}
		}, "removed-ids"),

		breaks("compaction moves positions", func(b *broken) {
			moved := engine.Position(0)
			b.compact = func(ctx context.Context, list []engine.RetentionRule) (engine.Compaction, error) {
				var first [1]engine.Event
				if n, _, _ := b.handle.ReadAll(ctx, engine.Query{From: 1, To: b.handle.Head()}, first[:]); n == 1 {
					moved = first[0].Position - 1
				}
				return b.handle.Compact(ctx, list)
			}
			everyEvent(b, func(e *engine.Event) { e.Position -= moved })
		}, "compact", "compact-by-count", "compact-by-age"),
		breaks("compaction numbers versions anew", func(b *broken) {
			first := make(map[string]engine.Version)
			b.truncate = func(s engine.StreamState, before engine.Version) error {
				first[s.Name] = max(first[s.Name], before)
				return b.handle.Truncate(ctx, s, before)
			}
			everyEvent(b, func(e *engine.Event) { e.Version -= max(first[e.Stream], 1) - 1 })
		}, "truncate", "compact"),
		breaks("compaction takes one event too many", func(b *broken) {
			b.compact = func(ctx context.Context, list []engine.RetentionRule) (engine.Compaction, error) {
				done, err := b.handle.Compact(ctx, list)
				for _, name := range []string{"live-1", "account-1", "a-3"} {
					if s, _ := b.handle.Load(ctx, name); s.Version > 0 {
						b.handle.Truncate(ctx, s, 2)
					}
				}
				return done, err
			}
		}, "compact", "delete"),
		breaks("a context that is done compacts", func(b *broken) {
			b.compact = func(c context.Context, list []engine.RetentionRule) (engine.Compaction, error) {
				return b.handle.Compact(ctx, list)
			}
		}, "compact"),
		breaks("Removed counts everything that is gone", func(b *broken) {
			b.truncate = func(s engine.StreamState, before engine.Version) error {
				return b.handle.Truncate(ctx, s, before)
			}
			b.compact = func(ctx context.Context, list []engine.RetentionRule) (engine.Compaction, error) {
				done, err := b.handle.Compact(ctx, list)
				dst := make([]engine.TypeID, b.handle.Head())
				n, _ := b.handle.Types(0, dst)
				done.Removed = 0
				for _, typ := range dst[:n] {
					if typ == 0 {
						done.Removed++
					}
				}
				return done, err
			}
		}, "compact-by-count", "compact", "delete"),
		rules("one too many is kept", func(r *engine.RetentionRule) {
			if r.MaxCount > 0 {
				r.MaxCount++
			}
		}, "compact-by-count", "removed-reopen", "removed-crash"),
		rules("one too few is kept", func(r *engine.RetentionRule) {
			if r.MaxCount > 1 {
				r.MaxCount--
			}
		}, "compact-by-count", "removed-reopen"),
		rules("rules for streams ignored", func(r *engine.RetentionRule) {
			if r.Stream != "" {
				r.Stream = "nobody"
			}
		}, "compact-by-count", "compact-by-age"),
		rules("rules for categories ignored", func(r *engine.RetentionRule) {
			if r.Category != "" {
				r.Category = "nobody"
			}
		}, "compact-by-count", "compact-by-age", "removed-reopen"),
		rules("a category is a stream of that name", func(r *engine.RetentionRule) {
			if r.Category != "" {
				r.Stream, r.Category = r.Category, ""
			}
		}, "compact-by-count", "compact-by-age"),
		breaks("a category is a beginning", func(b *broken) {
			b.compact = func(ctx context.Context, list []engine.RetentionRule) (engine.Compaction, error) {
				for _, r := range list {
					if r.Category == "a" {
						r.Category = "ab"
						list = append(list[:len(list):len(list)], r)
					}
				}
				return b.handle.Compact(ctx, list)
			}
		}, "compact-by-count"),
		rules("no age is too old", func(r *engine.RetentionRule) { r.MaxAge = 0 }, "compact-by-age"),
		rules("an age ten times too long", func(r *engine.RetentionRule) { r.MaxAge *= 10 }, "compact-by-age"),
		rules("a category's newest is never too old", func(r *engine.RetentionRule) {
			if r.MaxAge == time.Nanosecond {
				r.MaxAge, r.MaxCount = 0, 1
			}
		}, "compact-by-age"),
		rules("a limit of age ignored beside one of count", func(r *engine.RetentionRule) {
			if r.MaxCount > 0 {
				r.MaxAge = 0
			}
		}, "compact-by-age"),

		breaks("compaction loses what is stored meanwhile", func(b *broken) {
			var compacted atomic.Bool
			b.compact = func(ctx context.Context, list []engine.RetentionRule) (engine.Compaction, error) {
				compacted.Store(true)
				return b.handle.Compact(ctx, list)
			}
			b.commit = func(ctx context.Context, writes []*engine.Write) error {
				lost := compacted.CompareAndSwap(true, false)
				if err := b.handle.Commit(ctx, writes); err != nil || !lost {
					return err
				}
				s := *writes[0].Stream
				s.Version += engine.Version(len(writes[0].Events))
				return b.handle.Truncate(ctx, s, s.Version+1)
			}
		}, "compact-concurrently"),
		breaks("compaction stops readers", func(b *broken) {
			var compacted atomic.Bool
			b.compact = func(ctx context.Context, list []engine.RetentionRule) (engine.Compaction, error) {
				compacted.Store(true)
				return b.handle.Compact(ctx, list)
			}
			b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
				if compacted.Load() {
					return 0, q.From, errors.New("file already closed")
				}
				return b.handle.ReadAll(ctx, q, dst)
			}
			b.readStream = func(s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
				if compacted.Load() {
					return 0, q.From, errors.New("file already closed")
				}
				return b.handle.ReadStream(ctx, s, q, dst)
			}
		}, "compact-concurrently"),

		breaks("what is removed comes back", func(b *broken) { hide(b, true) }, "removed-reopen", "removed-crash"),
		breaks("deletions in memory alone", func(b *broken) {
			deleted := make(map[string]bool)
			b.delete = func(s engine.StreamState) error {
				deleted[s.Name] = true
				return b.handle.Truncate(ctx, s, s.Version+1)
			}
			b.load = func(stream string) (engine.StreamState, error) {
				s, err := b.handle.Load(ctx, stream)
				s.Deleted = deleted[stream]
				return s, err
			}
		}, "removed-reopen", "removed-crash"),
	}
}

// hide makes b hide what is truncated instead of removing it. With forward a truncation
// does not go back.
func hide(b *broken, forward bool) {
	var mu sync.Mutex
	before := make(map[string]engine.Version)
	b.truncate = func(s engine.StreamState, v engine.Version) error {
		mu.Lock()
		defer mu.Unlock()
		if v > before[s.Name] || !forward && v > 1 {
			before[s.Name] = v
		}
		return nil
	}
	hidden := func() func(e engine.Event) bool {
		mu.Lock()
		defer mu.Unlock()
		now := maps.Clone(before)
		return func(e engine.Event) bool { return e.Version < now[e.Stream] }
	}
	b.readAll = func(q engine.Query, dst []engine.Event) (int, engine.Position, error) {
		n, next, err := b.handle.ReadAll(ctx, q, dst)
		return len(slices.DeleteFunc(dst[:n], hidden())), next, err
	}
	b.readStream = func(s engine.StreamState, q engine.StreamQuery, dst []engine.Event) (int, engine.Version, error) {
		n, next, err := b.handle.ReadStream(ctx, s, q, dst)
		return len(slices.DeleteFunc(dst[:n], hidden())), next, err
	}
	b.types = func(after engine.Position, dst []engine.TypeID) (int, error) {
		n, err := b.handle.Types(after, dst)
		evs := make([]engine.Event, n)
		gone := hidden()
		k, _, _ := b.handle.ReadAll(ctx, engine.Query{From: after + 1, To: after + engine.Position(n)}, evs)
		for _, e := range evs[:k] {
			if gone(e) {
				dst[e.Position-after-1] = 0
			}
		}
		return n, err
	}
}
