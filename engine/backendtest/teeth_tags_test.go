package backendtest_test

import (
	"slices"
	"time"

	"github.com/weirstore/weir/engine"
)

// tagDefects are events that a look-up by tags does not find, or should not, and conditions
// that do not hold.
func tagDefects() []defect {
	finds := func(name string, keep func(b *broken, e *engine.Event) bool, caught ...string) defect {
		return breaks(name, func(b *broken) {
			b.matching = func(m []engine.TagMatch, after, to engine.Position, dst []engine.Event) (n int, err error) {
				all := make([]engine.Event, b.handle.Head())
				k, err := b.handle.Matching(ctx, m, after, to, all)
				for _, e := range all[:k] {
					if n < len(dst) && keep(b, &e) {
						dst[n] = e
						n++
					}
				}
				return n, err
			}
		}, caught...)
	}
	looksFor := func(name string, change func(m *engine.TagMatch), caught ...string) defect {
		each := func(list []engine.TagMatch) []engine.TagMatch {
			list = slices.Clone(list)
			for i := range list {
				change(&list[i])
			}
			return list
		}
		return breaks(name, func(b *broken) {
			b.matching = func(m []engine.TagMatch, after, to engine.Position, dst []engine.Event) (int, error) {
				return b.handle.Matching(ctx, each(m), after, to, dst)
			}
			b.commitIf = func(writes []*engine.Write, conditions []engine.TagCondition) error {
				conditions = slices.Clone(conditions)
				for i := range conditions {
					conditions[i].Any = each(conditions[i].Any)
				}
				return b.handle.CommitIf(ctx, writes, conditions)
			}
		}, caught...)
	}
	on := func(name string, change func(b *broken, list []engine.TagCondition) []engine.TagCondition, caught ...string) defect {
		return breaks(name, func(b *broken) {
			b.commitIf = func(writes []*engine.Write, conditions []engine.TagCondition) error {
				return b.handle.CommitIf(ctx, writes, change(b, slices.Clone(conditions)))
			}
		}, caught...)
	}
	return []defect{
		finds("the newest event is not found by its tags", func(b *broken, e *engine.Event) bool { return e.Position < b.handle.Head() }, "tags", "tags-reopen"),
		finds("the second of two tags is no tag", func(_ *broken, e *engine.Event) bool { return len(e.Meta.Tags()) < 2 }, "tags", "tags-reopen"),
		finds("tags are forgotten beside extra entries", func(_ *broken, e *engine.Event) bool { delete(e.Meta.Extra, "$tags"); return true }, "tags"),
		looksFor("any of the tags will do", func(m *engine.TagMatch) { m.Tags = m.Tags[:1] }, "tags", "tags-reopen"),
		looksFor("types are not looked at", func(m *engine.TagMatch) { m.Types = nil }, "tags", "conditions"),
		breaks("one match of several", func(b *broken) {
			b.matching = func(m []engine.TagMatch, after, to engine.Position, dst []engine.Event) (int, error) {
				return b.handle.Matching(ctx, m[:1], after, to, dst)
			}
			b.commitIf = func(writes []*engine.Write, conditions []engine.TagCondition) error {
				for i := range conditions {
					conditions[i].Any = conditions[i].Any[:1]
				}
				return b.handle.CommitIf(ctx, writes, conditions)
			}
		}, "tags", "conditions"),
		breaks("after includes the position", func(b *broken) {
			b.matching = func(m []engine.TagMatch, after, to engine.Position, dst []engine.Event) (int, error) {
				return b.handle.Matching(ctx, m, max(after, 1)-1, to, dst)
			}
		}, "tags"),
		breaks("what is beyond the end asked for is found", func(b *broken) {
			b.matching = func(m []engine.TagMatch, after, to engine.Position, dst []engine.Event) (int, error) {
				return b.handle.Matching(ctx, m, after, to+1, dst)
			}
		}, "tags"),
		breaks("what matches twice is found twice", func(b *broken) {
			b.matching = func(m []engine.TagMatch, after, to engine.Position, dst []engine.Event) (n int, err error) {
				for i := range m {
					k, err := b.handle.Matching(ctx, m[i:i+1], after, to, dst[n:])
					if n += k; err != nil {
						return n, err
					}
				}
				return n, nil
			}
		}, "tags"),

		on("conditions are not looked at", func(*broken, []engine.TagCondition) []engine.TagCondition { return nil }, "conditions", "conditions-concurrently", "tags-reopen"),
		on("the first condition alone", func(_ *broken, list []engine.TagCondition) []engine.TagCondition { return list[:min(1, len(list))] }, "conditions"),
		on("the last event is not seen", func(_ *broken, list []engine.TagCondition) []engine.TagCondition {
			for i := range list {
				list[i].After++
			}
			return list
		}, "conditions"),
		on("what was decided on is seen again", func(_ *broken, list []engine.TagCondition) []engine.TagCondition {
			for i := range list {
				list[i].After = max(list[i].After, 1) - 1
			}
			return list
		}, "conditions"),
		breaks("conditions are decided on before the commit", func(b *broken) {
			b.commitIf = func(writes []*engine.Write, conditions []engine.TagCondition) error {
				var dst [1]engine.Event
				for i, c := range conditions {
					if n, _ := b.handle.Matching(ctx, c.Any, c.After, b.handle.Head(), dst[:]); n > 0 {
						return &engine.ConditionError{Condition: i + 1, Position: dst[0].Position}
					}
				}
				<-time.After(time.Millisecond / 10) // long enough for somebody else
				return b.handle.Commit(ctx, writes)
			}
		}, "conditions-concurrently"),
		breaks("what has failed is stored", func(b *broken) {
			b.commitIf = func(writes []*engine.Write, conditions []engine.TagCondition) error {
				err := b.handle.CommitIf(ctx, writes, conditions)
				if err != nil {
					b.handle.Commit(ctx, writes)
				}
				return err
			}
		}, "conditions", "conditions-concurrently"),
		breaks("what was removed was never there", func(b *broken) {
			b.commitIf = func(writes []*engine.Write, conditions []engine.TagCondition) error {
				err := b.handle.CommitIf(ctx, writes, conditions)
				if failed, ok := err.(*engine.ConditionError); ok && failed.Position == 0 {
					return b.handle.Commit(ctx, writes)
				}
				return err
			}
		}, "conditions"),
		breaks("tags of before the restart are unknown", func(b *broken) {
			from := b.handle.Head()
			b.matching = func(m []engine.TagMatch, after, to engine.Position, dst []engine.Event) (int, error) {
				return b.handle.Matching(ctx, m, max(after, from), to, dst)
			}
		}, "tags-reopen"),
	}
}
