package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/weirstore/weir/engine"
)

// figures are a line of the table. What is counted are events.
type figures struct {
	acked    engine.Version // acknowledged to this child
	found    engine.Version // in the store, and not there before this child
	whole    engine.Version // of these not acknowledged: with all others of their append
	part     engine.Version // of these not acknowledged: without some
	lost     engine.Version // not there: acknowledged, or before one that is there
	repeated engine.Version // there for the second time

	torn   string        // what was cut off the log's end; it is kept beside it
	opened time.Duration // how long opening took

	handled engine.Position // for the first time
	again   engine.Position // for the second time
	age     time.Duration   // of these the oldest, when the child before was killed
	missed  engine.Position // not handled, and later ones were
}

// ledger is what the parent knows of the store.
type ledger struct {
	at      [appenders]engine.Version // of each stream
	handled engine.Position           // everything up to it
	heard   map[engine.Position]time.Time
	now     figures // of this round
}

// round is one life of a child, and what it leaves behind.
func (l *ledger) round(ctx context.Context, dir string) (figures, error) {
	l.now = figures{torn: "none"}
	if err := kill(ctx, dir, 150*time.Millisecond+rand.N(250*time.Millisecond), l.hear); err != nil {
		return l.now, err
	}
	store, eng, err := open(dir)
	if err != nil {
		return l.now, err
	}
	recovery := store.Recovery()
	if l.now.opened = recovery.Took; recovery.Cut != nil {
		l.now.torn = fmt.Sprintf("%d bytes", recovery.Cut.Bytes)
	}
	return l.now, errors.Join(l.account(ctx, eng), eng.Close())
}

// settle lets the handler come to the end, in this process, and accounts for what is there.
func (l *ledger) settle(ctx context.Context, dir string) (figures, error) {
	l.now = figures{torn: "none"}
	store, eng, err := open(dir)
	if err != nil {
		return l.now, err
	}
	l.now.opened = store.Recovery().Took
	if err = audit(eng, l.handle); err == nil {
		err = errors.Join(eng.Wait(ctx, eng.Head(), "audit"), l.account(ctx, eng))
	}
	err = errors.Join(err, eng.Close()) // from here on the handler is not called
	l.now.missed += eng.Head() - l.handled
	l.handled = eng.Head()
	return l.now, err
}

// hear takes a line of the child.
func (l *ledger) hear(line string) error {
	var a int
	var v engine.Version
	if _, err := fmt.Sscanf(line, "acked %d %d", &a, &v); err == nil {
		l.now.acked += v - l.at[a]
		l.at[a] = v
		return nil
	}
	var pos engine.Position
	if _, err := fmt.Sscanf(line, "handled %d", &pos); err != nil {
		return fmt.Errorf("the child says %q", line)
	}
	l.handle(pos)
	return nil
}

// handle counts a call of the handler.
func (l *ledger) handle(pos engine.Position) {
	if pos <= l.handled {
		if l.now.again++; l.now.again == 1 {
			l.now.age = l.heard[l.handled].Sub(l.heard[pos])
		}
		return
	}
	l.now.missed += pos - l.handled - 1
	l.now.handled++
	l.handled, l.heard[pos] = pos, time.Now()
}

// account reads every stream from its beginning.
func (l *ledger) account(ctx context.Context, eng *engine.Engine) error {
	before := l.now.acked
	for a := range appenders {
		var last engine.Version
		for ev, err := range eng.Read(ctx, stream(a)) {
			if err != nil {
				return err
			}
			n := ev.Data.(Deposited).Number
			if n <= last {
				l.now.repeated++
				continue
			}
			l.now.lost += n - last - 1
			last = n
		}
		switch more := last - l.at[a]; {
		case last < l.at[a]:
			l.now.lost += l.at[a] - last
		case more == batch(l.at[a]):
			l.now.whole += more
		default:
			l.now.part += more
		}
		l.at[a] = last
	}
	l.now.found = before + l.now.whole + l.now.part - l.now.lost
	return nil
}
