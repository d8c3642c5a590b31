package verify_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/weirstore/weir/engine"
)

// accounts is how many streams a history of commands has.
const accounts = 3

type paid struct{ N int }

// account is folded for commands: a total that must not go below zero.
var account = &engine.Decider[int, int]{
	Evolve: func(total int, ev engine.Event) int { return total + ev.Data.(paid).N },
	Decide: func(total, n int) ([]engine.NewEvent, error) {
		if total+n < 0 {
			return nil, errBroke
		}
		return []engine.NewEvent{payment(0, n)}, nil
	},
}

var errBroke = errors.New("broke")

// payment is an event of an account, tagged with it.
func payment(i, n int) engine.NewEvent {
	return engine.New(paid{n}).WithTags(accountName(i))
}

func accountName(i int) string { return fmt.Sprintf("account-%d", i) }

// order is one operation of a history of commands.
type order struct {
	kind     string // execute, submit, transfer, claim, load
	from, to int
	n        int
	version  engine.Version  // transfer, submit: at which from is believed to be
	after    engine.Position // claim: no event of to was stored since
}

// done is what came of it.
type done struct {
	ok       bool
	version  engine.Version  // of from, afterwards
	position engine.Position // of the last event
	total    int             // load
}

// books is the state of the model: what has happened so far, in the order of the log.
type books struct {
	total   [accounts]int
	version [accounts]engine.Version
	tagged  [accounts]engine.Position // of the newest event with the account's tag
	head    engine.Position
}

func (b *books) add(i, n int, tagged bool) {
	b.head++
	b.total[i] += n
	b.version[i]++
	if tagged {
		b.tagged[i] = b.head
	}
}

// booksModel says what a sequence of orders must come to. Events of Execute carry the tag of
// account 0, whatever the account: Decide does not know whom it decides for.
func booksModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return books{} },
		Step: func(state, input, output any) (bool, any) {
			b, in, out := state.(books), input.(order), output.(done)
			may := true
			switch in.kind {
			case "execute":
				if may = b.total[in.from]+in.n >= 0; may {
					b.add(in.from, in.n, false)
					b.tagged[0] = b.head
				}
			case "submit":
				if may = b.version[in.from] == in.version; may {
					b.add(in.from, in.n, true)
				}
			case "transfer":
				if may = b.version[in.from] == in.version; may {
					b.add(in.from, -in.n, true)
					b.add(in.to, in.n, true)
				}
			case "claim":
				if may = b.tagged[in.to] <= in.after; may {
					b.add(in.from, in.n, true)
				}
			case "load":
				return out.ok && out.total == b.total[in.from] && out.version == b.version[in.from], state
			}
			if out.ok != may {
				return false, nil
			}
			if !may {
				return true, state
			}
			return out.version == b.version[in.from] && out.position == b.head, b
		},
		Equal: func(a, b any) bool { return a.(books) == b.(books) },
		DescribeOperation: func(in, out any) string {
			return fmt.Sprintf("%+v: %+v", in, out)
		},
	}
}

// carryOut does what an order says. A submit lasts until its outcome is known; meanwhile it may
// have been waited for in vain.
func carryOut(ctx context.Context, e *engine.Engine, o order) (done, error) {
	switch o.kind {
	case "submit":
		p, err := e.Submit(ctx, accountName(o.from), engine.Exactly(o.version), payment(o.from, o.n))
		if err != nil {
			return done{}, err
		}
		if o.n%2 == 0 {
			short, cancel := context.WithCancel(ctx)
			cancel()
			if _, err := p.Wait(short); errors.Is(err, engine.ErrOutcomeUnknown) {
				return done{}, err
			}
		}
		res, err := p.Wait(ctx)
		if _, conflict := errors.AsType[*engine.VersionConflictError](err); conflict {
			return done{}, nil
		}
		return done{ok: true, version: res.Last, position: res.Position}, err
	case "execute":
		res, err := engine.Execute(ctx, e, account, accountName(o.from), o.n)
		if err == errBroke {
			return done{}, nil
		}
		return done{ok: true, version: res.Last, position: res.Position}, err
	case "load":
		total, version, err := engine.Load(ctx, e, account, accountName(o.from))
		return done{ok: true, version: version, total: total}, err
	}
	tx := engine.Tx{Writes: []engine.TxWrite{{Stream: accountName(o.from), Expected: engine.Any, Events: []engine.NewEvent{payment(o.from, o.n)}}}}
	if o.kind == "transfer" {
		tx.Writes[0].Expected = engine.Exactly(o.version)
		tx.Writes[0].Events[0] = payment(o.from, -o.n)
		tx.Writes = append(tx.Writes, engine.TxWrite{Stream: accountName(o.to), Expected: engine.Any, Events: []engine.NewEvent{payment(o.to, o.n)}})
	} else {
		tx.Conditions = []engine.Condition{{Any: []engine.Criterion{{Tags: []string{accountName(o.to)}}}, After: o.after}}
	}
	res, err := e.Commit(ctx, tx)
	if _, refused := errors.AsType[*engine.TxError](err); refused {
		return done{}, nil
	}
	if err != nil {
		return done{}, err
	}
	return done{ok: true, version: res.Writes[0].Last, position: res.Position}, nil
}

// recordCommands lets clients give orders, each on what it has seen itself.
func recordCommands(t *testing.T, rng *rand.Rand, backend engine.Backend) (ops []porcupine.Operation) {
	t.Helper()
	ctx, end := bounded(t)
	defer end()
	e := open(t, engine.Options{Backend: backend, StreamMailbox: 1 + rng.IntN(3), MaxSubmitted: 1 + rng.IntN(4), CachedStates: []int{1, 100}[rng.IntN(2)]})
	if err := engine.Register[paid](e, "paid"); err != nil {
		t.Fatal(err)
	}
	const clients, each = 4, 9
	began := time.Now()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for c := range clients {
		rng := rand.New(rand.NewPCG(rng.Uint64(), uint64(c)))
		wg.Go(func() {
			var seen done
			var versions [accounts]engine.Version
			for range each {
				o := order{kind: []string{"execute", "submit", "submit", "transfer", "claim", "load"}[rng.IntN(6)], from: rng.IntN(accounts), n: rng.IntN(9) - 3}
				o.to = (o.from + 1 + rng.IntN(accounts-1)) % accounts
				o.version, o.after = versions[o.from], seen.position
				call := time.Since(began)
				out, err := carryOut(ctx, e, o)
				back := time.Since(began)
				if err != nil {
					t.Errorf("%+v: %v", o, err)
					return
				}
				if out.ok {
					versions[o.from] = out.version
					seen.position = max(seen.position, out.position)
				}
				mu.Lock()
				ops = append(ops, porcupine.Operation{ClientId: c, Input: o, Call: int64(call), Output: out, Return: int64(back)})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if _, err := e.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	return ops
}

// TestCommandsAreLinearizable: commands, submitted appends, transactions and conditions on tags, of many callers at
// once, come to the same as one after the other, in the order of the log.
func TestCommandsAreLinearizable(t *testing.T) {
	refused := 0
	for i := range scale(150) {
		rng := rand.New(rand.NewPCG(uint64(i), 7))
		backend := engine.Backend(engine.NewMemory())
		if i%5 == 4 {
			backend = openFiles(t, t.TempDir())
		}
		ops := recordCommands(t, rng, backend)
		if t.Failed() {
			return
		}
		for _, op := range ops {
			if !op.Output.(done).ok {
				refused++
			}
		}
		if res := porcupine.CheckOperationsTimeout(booksModel(), ops, 30*time.Second); res != porcupine.Ok {
			for _, op := range ops {
				t.Logf("client %d, %d to %d: %+v: %+v", op.ClientId, op.Call, op.Return, op.Input, op.Output)
			}
			t.Fatalf("history %d is %v", i, res)
		}
		if i%10 == 0 { // the checker has teeth
			lie(rng, ops)
			if res := porcupine.CheckOperationsTimeout(booksModel(), ops, 30*time.Second); res != porcupine.Illegal {
				t.Fatalf("history %d with a lie in it is %v", i, res)
			}
		}
	}
	if refused == 0 {
		t.Error("nothing was ever refused")
	}
	t.Logf("%d orders were refused", refused)
}

// lie changes one answer.
func lie(rng *rand.Rand, ops []porcupine.Operation) {
	for {
		op := &ops[rng.IntN(len(ops))]
		out := op.Output.(done)
		if !out.ok || op.Input.(order).kind == "load" {
			continue
		}
		if rng.IntN(2) == 0 {
			out.position++ // as if another event had come before it
		} else {
			out = done{} // as if it had been refused
		}
		op.Output = out
		return
	}
}
