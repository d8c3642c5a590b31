package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Options of [Open]. The zero value works: an engine in memory with these defaults.
type Options struct {
	// Backend is where the log lives. Default [NewMemory]. The engine owns it from then on and closes it,
	// but if Open fails it is still the caller's, to be closed.
	Backend Backend

	// Logger gets what no caller is there to be told: handlers that fail, stop, lag or are
	// slow. Payloads are never logged. Default slog.Default().
	Logger *slog.Logger

	// MaxEvents and MaxBytes limit one append: default 10,000 events and 16 MiB. Bytes
	// are those of names, IDs, metadata, and of payloads: as stored, if the backend stores bytes. For
	// others only a []byte, a string or a json.RawMessage counts; the size of a Go value is not known.
	MaxEvents int
	MaxBytes  int

	// Codec makes the payloads of new events bytes, if the backend stores bytes ([Caps].Encoded), except
	// those that are a []byte, a string or a json.RawMessage, which are stored as they are. Default JSON.
	Codec Codec
	// ReadCodecs are the others that stored events may need. JSON is always known; a
	// codec here or above that has its name takes its place.
	ReadCodecs []Codec

	// Durability is that of each append which does not ask for another: see [WithDurability].
	// Default the most that the backend can do.
	Durability Durability

	// GuardPayloads looks for handlers that change what they share: a payload, or Meta.Extra. Both are hashed
	// before each call of a handler, or of a decider's Evolve, and after it. A change is a [*MutationError] of that call, which says who
	// it was and what has changed, and goes through the failure policy. Default on in builds with the race
	// detector, which finds only changes that happen at the same time as another use, and off in others;
	// GuardOff switches it off for good.
	//
	// At most 10,000 values and 1 MiB of text and bytes of each event are looked at. A struct with a
	// lock or an atomic value in it is not looked into: it may fill a cache when it is read. The same goes for unexported fields of protobuf
	// messages, and for what is in channels and functions. A change that is made between calls, by
	// who has kept an event, is not found, and neither is one made by a reader or by a key function.
	GuardPayloads PayloadGuard

	// IdleAfter is how long a stream keeps its goroutine without an append (to 1.25 ×
	// IdleAfter). Default 1s. The next append brings it back, at the price of about half a
	// microsecond.
	IdleAfter time.Duration
	// MaxIdleStreams is how many streams may keep an idle goroutine at all: while more are
	// active, a stream gives its goroutine up as soon as it has nothing to do. Default 16,384,
	// about 60 MB.
	MaxIdleStreams int
	// StreamMailbox is how many appends may wait in one stream's channel before the next
	// caller waits outside. Default 64, at most 65,536.
	StreamMailbox int
	// MaxSubmitted is how many appends of [Engine.Submit] may be accepted and not yet answered, in all
	// streams together, before the next caller waits. Each keeps its events until then. Default 65,536.
	MaxSubmitted int

	// CachedStates is how many streams' folded states are kept for [Execute], those used least recently
	// going first; a state has the size that its decider makes it. Default 10,000.
	CachedStates int

	// SlowCall is how long one call of a handler may run before the watchdog logs and
	// counts it. Default 5s.
	SlowCall time.Duration
	// StallAfter is how long a handler with events before it may make no progress before it
	// counts as stalled. Default 10s.
	StallAfter time.Duration
	// Retention says what may go. It is applied when [Engine.Compact] is called, and not before: a
	// rule removes nothing by itself. Where several rules or limits concern a stream, what any of
	// them wants removed is.
	Retention []RetentionRule

	// CheckpointEvery is how long after a named handler has made progress the checkpoints of
	// all that did are stored, in one batch, and parked lists with them: with backends that
	// outlive the process, which memory does not. After a crash at most what was handled within this time, plus the
	// time that one save takes, is handled again. Default 1s.
	CheckpointEvery time.Duration
	// CloseTimeout is the deadline of Close, and of a Shutdown from inside a handler. Default 30s.
	CloseTimeout time.Duration
}

// withDefaults returns the options with defaults filled in, or all that is wrong with them.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	count := func(field string, value *int, standard int) {
		if *value < 0 {
			errs = append(errs, invalid("open", "Options."+field, *value, "0 for the default, or more"))
		}
		if *value == 0 {
			*value = standard
		}
	}
	duration := func(field string, value *time.Duration, standard time.Duration) {
		if *value < 0 {
			errs = append(errs, invalid("open", "Options."+field, *value, "0 for the default, or more"))
		}
		if *value == 0 {
			*value = standard
		}
	}
	count("MaxEvents", &o.MaxEvents, 10_000)
	count("MaxBytes", &o.MaxBytes, 16<<20)
	count("MaxIdleStreams", &o.MaxIdleStreams, 16<<10)
	count("CachedStates", &o.CachedStates, 10_000)
	count("MaxSubmitted", &o.MaxSubmitted, 1<<16)
	count("StreamMailbox", &o.StreamMailbox, 64)
	if most := 1 << 16; o.StreamMailbox > most {
		errs = append(errs, invalid("open", "Options.StreamMailbox", o.StreamMailbox, fmt.Sprintf("at most %d", most)))
	}
	duration("IdleAfter", &o.IdleAfter, time.Second)
	duration("SlowCall", &o.SlowCall, 5*time.Second)
	duration("StallAfter", &o.StallAfter, 10*time.Second)
	duration("CheckpointEvery", &o.CheckpointEvery, time.Second)
	duration("CloseTimeout", &o.CloseTimeout, 30*time.Second)
	if o.Backend == nil {
		o.Backend = NewMemory()
	}
	errs = append(errs, checkRetention(o.Retention, o.Backend)...)
	o.Retention = slices.Clone(o.Retention)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.GuardPayloads > GuardOff {
		errs = append(errs, invalid("open", "Options.GuardPayloads", o.GuardPayloads, "GuardAuto, GuardOn or GuardOff"))
	}
	if rule := o.Durability.refused(o.Backend.Caps()); rule != "" {
		errs = append(errs, invalid("open", "Options.Durability", o.Durability, rule))
	}
	return o, errors.Join(errs...)
}

// option is one setting of a call. Not every setting fits every call: apply says so.
type option struct {
	name  string
	read  func(*readConfig) *InvalidError    // nil if it does not fit a read
	apply func(*handlerConfig) *InvalidError // nil if it does not fit a handler
}

// A ReadOption is a setting of Read or ReadAll.
type ReadOption interface{ readOption() option }

// A HandlerOption is a setting of On or Handle.
type HandlerOption interface{ handlerOption() option }

// A ReadHandlerOption fits both.
type ReadHandlerOption interface {
	ReadOption
	HandlerOption
}

func (o option) readOption() option    { return o }
func (o option) handlerOption() option { return o }

// refuse says what is wrong with an option's argument. Op is for the call that was given
// the option to fill in.
func refuse(what string, value any, rule string) *InvalidError { return invalid("", what, value, rule) }

// positive refuses an option's argument that is not above zero.
func positive[N int | time.Duration](option string, n N) *InvalidError {
	if n > 0 {
		return nil
	}
	return refuse(option, n, "more than 0")
}
