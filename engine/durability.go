package engine

import (
	"context"
	"fmt"
	"sync/atomic"
)

// Durability says what an acknowledged event survives.
type Durability uint8

const (
	// Volatile: nothing. The event is in the memory of this process.
	Volatile Durability = iota + 1
	// Written: the death of the process. The event was handed to the operating system, and
	// reaches the disk a little later: what a power cut may take is said by the backend.
	Written
	// Synced: the death of the machine. The event is on the disk.
	Synced
)

func (d Durability) String() string {
	switch d {
	case Volatile:
		return "volatile"
	case Written:
		return "written"
	case Synced:
		return "synced"
	}
	return fmt.Sprintf("Durability(%d)", uint8(d))
}

// WithDurability returns a context whose appends ask for a durability other than
// Options.Durability; 0 asks for that again. What was reached is in [Result].Durability: at least what
// was asked for.
//
// Append refuses with an [*InvalidError] what the backend cannot give: a backend that is not
// durable gives [Volatile] only. One that is gives [Written] and [Synced]; Volatile it refuses too,
// since an event that may vanish between others would break what the others promise.
func WithDurability(ctx context.Context, d Durability) context.Context {
	wished.Store(true)
	return context.WithValue(ctx, wishKey{}, d)
}

type wishKey struct{}

// wished says that this process has called WithDurability: until then no append looks
// through its context for a wish.
var wished atomic.Bool

// wish returns the durability that an append asks for. The error says no more than what is
// wrong with it.
func (e *Engine) wish(ctx context.Context) (Durability, *InvalidError) {
	d, ok := ctx.Value(wishKey{}).(Durability)
	if !ok || d == 0 {
		return e.opts.Durability, nil
	}
	if rule := d.refused(e.caps); rule != "" {
		return 0, refuse("", d, rule)
	}
	return d, nil
}

// refused says what a backend wants instead, "" if it can give what is asked for.
func (d Durability) refused(c Caps) string {
	switch {
	case d == 0:
		return ""
	case c.Durable && d != Written && d != Synced:
		return fmt.Sprintf("written or synced, with backend %q", c.Name)
	case !c.Durable && d != Volatile:
		return fmt.Sprintf("volatile, with backend %q", c.Name)
	}
	return ""
}
