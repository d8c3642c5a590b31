package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Process is a process manager: it follows something that takes several steps over several streams, such
// as an order until it is paid and shipped, and says what comes next. Each thing that it follows
// is an instance, with a state of type S that is folded from the events that concern it.
//
//	var fulfilment = &engine.Process[progress]{
//		Name: "fulfilment",
//		Evolve: func(p progress, ev engine.Event) progress { … },
//		React: func(p progress, ev engine.Event) (r engine.Reaction, err error) {
//			switch ev.Data.(type) {
//			case OrderPlaced:
//				r.Append("payment-"+p.Order, engine.New(PaymentRequested{p.Order, p.Amount}))
//				r.After(15*time.Minute, "payment", engine.New(PaymentTimedOut{p.Order}))
//			case PaymentReceived:
//				r.Cancel("payment")
//				…
//			}
//			return r, nil
//		},
//	}
//	h, err := engine.Manage(eng, fulfilment, engine.FromStart())
//
// The functions must be pure, and the fields must not change once [Manage] has them.
type Process[S any] struct {
	// Name names the process's handler, and the streams that tell what each instance has done. It
	// has no "-" in it. Required.
	Name string
	// Key returns the key of the instance that an event concerns, or "" if it concerns none. Nil
	// stands for [Event.Correlation]: an instance is then all that one event has led to. It is not
	// asked about the process's own timers, which concern the instance that has set them.
	Key func(ev Event) string
	// Initial returns the state of an instance that no event has concerned yet. Nil stands for the
	// zero value of S.
	Initial func() S
	// Evolve returns the state after one more event that concerns the instance. It may change the
	// state that it is given and return that one. Required.
	Evolve func(state S, ev Event) S
	// React says what is to be done about an event, after Evolve has had it. It may be asked more than
	// once, and is listened to once. An error, or a panic, goes through the handler's failure policy, and nothing of
	// the reaction is stored. Required.
	React func(state S, ev Event) (Reaction, error)
}

// Reaction is what a [Process] does about one event: all of it, at one moment, or nothing. The
// zero value does nothing.
type Reaction struct {
	writes []TxWrite
	timers []newTimer
	cancel []string
}

type newTimer struct {
	name  string
	after time.Duration
	at    time.Time // if not zero
	ev    NewEvent
}

// Append stores events at the end of a stream, whatever its version. They need no IDs, since a reaction is stored once; with
// one that the stream has already, the reaction fails.
func (r *Reaction) Append(stream string, events ...NewEvent) {
	for i := range r.writes {
		if w := &r.writes[i]; w.Stream == stream {
			w.Events = append(w.Events, events...)
			return
		}
	}
	r.writes = append(r.writes, TxWrite{stream, Any, slices.Clone(events)})
}

// After sets a timer: an event without an ID, which is appended for the process once d has passed since it
// has reacted. A timer of that name which the instance has set before is no more.
//
// Timers survive a restart, though nothing is due while the process is not registered: what has become due
// meanwhile is due at once. A timer is due once; after a crash a second time only if the first was lost
// with it, which appends that are synced are not.
func (r *Reaction) After(d time.Duration, timer string, ev NewEvent) {
	r.timers = append(r.timers, newTimer{name: timer, after: d, ev: ev})
}

// At sets a timer, as After does, that is due at a time of the wall clock. If that is set forward, a
// timer may be late by a minute.
func (r *Reaction) At(t time.Time, timer string, ev NewEvent) {
	r.timers = append(r.timers, newTimer{name: timer, at: t, ev: ev})
}

// Cancel makes the instance's timer of that name be no more, if there is one: it is not given to the
// process even if it is due already. A timer that the same reaction sets stays.
func (r *Reaction) Cancel(timer string) { r.cancel = append(r.cancel, timer) }

// Manage runs a process, as a named handler of the process's name: what is said of [Engine.Handle]
// holds for its position, its failures, and the options. With [Keyed] or [KeyedBy] so many instances go on side
// by side; the key is always the instance's. With [Types], the types of its timers must be among them.
//
// What is stored of a reaction is stored together with the note that the event was handled, so that
// each event is reacted to once, however often it is delivered: after a crash, or with [IgnoreCheckpoint]. The
// note is an event of type "$handled" or "$timers" in the stream "$name-key". Deleting that stream ends the
// instance for good: later events of its key are passed over, and none of its timers is due. Truncating it, by a rule of
// Options.Retention too, would make the process react to old events anew, and forget timers.
//
// An instance's state is kept in memory as [Options].CachedStates says, and else folded anew from the events
// that were handled. It is meant to come to an end: it costs 8 bytes for each of them.
//
// Register the types of events, those of timers included, and their upcasters before.
//
// A timer is an event that is appended to the stream "$name-key" when it is due, after one of type "$due".
// It has the correlation and causation of the event that it was set for. Engine.Settle does not wait for timers.
func Manage[S any](e *Engine, p *Process[S], opts ...HandlerOption) (*Handler, error) {
	if err := p.check("manage"); err != nil {
		return nil, err
	}
	m := &manager[S]{e: e, p: p, instances: make(map[string]*instance[S])}
	var c handlerConfig
	for _, opt := range opts {
		if opt == nil {
			continue // Handle says so
		}
		if o := opt.handlerOption(); o.apply != nil {
			o.apply(&c)
		}
	}
	m.types = c.typeNames
	// A key, even for one goroutine: while an event of an instance is parked, so are its later ones.
	opts = append(slices.Clone(opts), KeyedBy(max(c.Workers, 1), m.key))
	h, err := e.Handle(p.Name, m.handle, opts...)
	if err != nil {
		return nil, err
	}
	if err := e.keepTime(p.Name, h); err != nil {
		_ = h.Remove(e.ctx) // the engine closes, or its backend has failed
		return nil, err
	}
	return h, nil
}

// LoadInstance returns the state of an instance of a process, and how many events have made it
// so. It folds them in the caller's goroutine, and waits for nobody.
func LoadInstance[S any](ctx context.Context, e *Engine, p *Process[S], key string) (state S, events int, err error) {
	if err := p.check("load instance"); err != nil {
		return state, 0, err
	}
	if err := checkName("load instance", "key", key); err != nil {
		return state, 0, err
	}
	m := &manager[S]{e: e, p: p}
	inst := m.begin()
	if err := m.catchUp(ctx, processStream(p.Name, key), inst); err != nil {
		return state, 0, err
	}
	return inst.state, len(inst.handled), nil
}

func (p *Process[S]) check(op string) error {
	switch {
	case p == nil:
		return invalid(op, "process", nil, "a Process")
	case strings.Contains(p.Name, "-"):
		return invalid(op, "Process.Name", p.Name, `a name without "-", which ends the category of its streams`)
	case p.Evolve == nil:
		return invalid(op, "Process.Evolve", nil, "a function")
	case p.React == nil:
		return invalid(op, "Process.React", nil, "a function")
	}
	return checkName(op, "Process.Name", p.Name)
}

// processStream names the stream of an instance. Nobody's category begins with "$" but Weir's.
func processStream(process, key string) string { return "$" + process + "-" + key }

// manager runs a process in one engine. Its handler calls it for the events of one instance one
// after the other, in whatever goroutine.
type manager[S any] struct {
	e     *Engine
	p     *Process[S]
	types []string // that the handler gets; none for all

	mu        sync.Mutex // pure memory work
	instances map[string]*instance[S]
}

// instance is what is known of an instance: what its stream says up to a version. It belongs to
// whoever handles an event of it.
type instance[S any] struct {
	state   S
	at      Version
	handled []Position // ascending

	// timers are those that are set, with the event that each was set for; they stay until they are
	// handled or cancelled.
	timers map[string]Position
}

func (m *manager[S]) begin() *instance[S] {
	inst := &instance[S]{timers: make(map[string]Position)}
	if m.p.Initial != nil {
		inst.state = m.p.Initial()
	}
	return inst
}

// key returns the key of the instance that an event concerns, "" for none.
func (m *manager[S]) key(ev Event) string {
	if strings.HasPrefix(ev.Type, "$") {
		return ""
	}
	if key, ok := strings.CutPrefix(ev.Stream, processStream(m.p.Name, "")); ok {
		return key
	}
	if m.p.Key == nil {
		return ev.Correlation()
	}
	return m.p.Key(ev)
}

// maxConflicts bounds how often a reaction is thought out again because something else than a timer has got into
// the instance's stream meanwhile.
const maxConflicts = 16

func (m *manager[S]) handle(ctx context.Context, ev Event) error {
	key := m.key(ev)
	if key == "" {
		return nil
	}
	stream := processStream(m.p.Name, key)
	for try := 0; ; try++ {
		err := m.react(ctx, stream, ev)
		if deleted, ok := errors.AsType[*StreamDeletedError](err); ok && deleted.Stream == stream {
			return nil // the instance has ended
		}
		if conflict, ok := errors.AsType[*VersionConflictError](err); ok && conflict.Stream == stream && try < maxConflicts {
			continue
		}
		return err
	}
}

// react handles an event, unless the instance has done so.
func (m *manager[S]) react(ctx context.Context, stream string, ev Event) (err error) {
	inst, kept := m.take(stream)
	if !kept || ev.Stream == stream && ev.Version > inst.at { // a timer of its own
		if err := m.catchUp(ctx, stream, inst); err != nil {
			return err
		}
	}
	if inst.has(ev.Position) || !inst.wants(stream, &ev) {
		m.give(stream, inst)
		return nil
	}
	if err := m.evolve(inst, ev); err != nil {
		return err
	}
	r, err := m.p.React(inst.state, ev)
	if err != nil {
		return err
	}
	note, err := m.note(stream, ev, &r)
	if err != nil {
		return err
	}
	tx := Tx{Writes: []TxWrite{{Stream: stream, Events: []NewEvent{note.event(m.e)}}}}
	for _, w := range r.writes {
		if strings.HasPrefix(w.Stream, "$") {
			return invalid("react "+quote(m.p.Name), "stream", w.Stream, `one whose name does not begin with "$"`)
		}
		if len(w.Events) > 0 {
			tx.Writes = append(tx.Writes, w)
		}
	}
	res, err := m.commit(ctx, inst, tx)
	if err != nil {
		return err // and the instance, which has evolved, is forgotten
	}
	inst.apply(note)
	inst.at = res.Writes[0].Last
	m.give(stream, inst)
	return nil
}

// commit stores a reaction, whose first write is the note, unless the instance has done something else
// meanwhile. That timers of it have become due is nothing: there are as many conflicts at most as it has timers.
func (m *manager[S]) commit(ctx context.Context, inst *instance[S], tx Tx) (TxResult, error) {
	for {
		note := &tx.Writes[0]
		note.Expected = Exactly(inst.at)
		res, err := m.e.Commit(ctx, tx)
		conflict, ok := errors.AsType[*VersionConflictError](err)
		if !ok || conflict.Stream != note.Stream || !m.onlyTimers(ctx, note.Stream, inst) {
			return res, err
		}
	}
}

// onlyTimers reports whether nothing has come to the instance's stream but timers that are due, and brings
// the instance there.
func (m *manager[S]) onlyTimers(ctx context.Context, stream string, inst *instance[S]) bool {
	at := inst.at
	for ev, err := range m.e.Read(ctx, stream, AfterVersion(at)) {
		if err != nil {
			return false
		}
		if note, err := noteOf(ev); err != nil || note != nil && note.Due == "" {
			return false
		}
		inst.at = ev.Version
	}
	return inst.at > at
}

// take returns what is known of an instance; kept says that it is more than nothing. Unless it is given
// back it is forgotten.
func (m *manager[S]) take(stream string) (inst *instance[S], kept bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if inst = m.instances[stream]; inst == nil {
		return m.begin(), false
	}
	delete(m.instances, stream)
	return inst, true
}

func (m *manager[S]) give(stream string, inst *instance[S]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for other := range m.instances { // some one: the order of a map is as good as any
		if len(m.instances) < m.e.opts.CachedStates {
			break
		}
		delete(m.instances, other)
	}
	m.instances[stream] = inst
}

// catchUp folds what the instance's stream says, from where the instance is on.
func (m *manager[S]) catchUp(ctx context.Context, stream string, inst *instance[S]) error {
	for ev, err := range m.e.Read(ctx, stream, AfterVersion(inst.at)) {
		if err != nil {
			return err
		}
		note, err := noteOf(ev)
		if err != nil {
			return err
		}
		if note != nil && note.Handled > 0 {
			if err := m.refold(ctx, inst, stream, note.Handled); err != nil {
				return err
			}
		}
		inst.apply(note)
		inst.at = ev.Version
	}
	return nil
}

// refold gives an event that was handled to Evolve once more. One that was removed since has no part in the
// state any more.
func (m *manager[S]) refold(ctx context.Context, inst *instance[S], stream string, pos Position) error {
	for ev, err := range m.e.ReadAll(ctx, From(pos), Limit(1)) {
		if err != nil {
			return err
		}
		if ev.Position == pos {
			inst.wants(stream, &ev)
			return m.evolve(inst, ev)
		}
	}
	return nil
}

func (m *manager[S]) evolve(inst *instance[S], ev Event) error {
	return m.e.guard.evolve(m.p, ev, func(ev Event) { inst.state = m.p.Evolve(inst.state, ev) })
}

func (inst *instance[S]) has(pos Position) bool {
	_, found := slices.BinarySearch(inst.handled, pos)
	return found
}

// wants reports whether an event is to be handled: a timer is only if it is still set. Then it is not any more.
func (inst *instance[S]) wants(stream string, ev *Event) bool {
	name, by, ok := timerOf(ev)
	if !ok || ev.Stream != stream {
		return true
	}
	if inst.timers[name] != by {
		return false
	}
	delete(inst.timers, name)
	return true
}

// apply takes a note into account.
func (inst *instance[S]) apply(n *note) {
	if n == nil {
		return
	}
	if n.Handled > 0 {
		i, found := slices.BinarySearch(inst.handled, n.Handled)
		if !found {
			inst.handled = slices.Insert(inst.handled, i, n.Handled)
		}
	}
	for _, name := range n.Cancelled {
		delete(inst.timers, name)
	}
	for _, t := range n.Set {
		inst.timers[t.Name] = n.Handled
	}
}

// note makes the note of a reaction, after a look at its timers.
func (m *manager[S]) note(stream string, ev Event, r *Reaction) (*note, error) {
	op := "react " + quote(m.p.Name)
	n := &note{Handled: ev.Position, Cancelled: r.cancel}
	now := time.Now()
	for _, t := range r.timers {
		if err := checkName(op, "name of a timer", t.name); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(n.Set, func(s *timer) bool { return s.Name == t.name }); i >= 0 {
			return nil, invalid(op, "name of a timer", t.name, "one timer of that name in a reaction")
		}
		if t.at.IsZero() {
			t.at = now.Add(t.after)
		}
		set, err := m.e.newTimer(stream, t)
		if err != nil {
			return nil, err
		}
		if len(m.types) > 0 && !slices.Contains(m.types, set.Type) {
			return nil, invalid(op, fmt.Sprintf("event type of timer %s", quote(t.name)), set.Type, "one of the Types that the process is given")
		}
		if set.Meta.CorrelationID == "" {
			set.Meta.CorrelationID = ev.Correlation()
		}
		if set.Meta.CausationID == "" {
			set.Meta.CausationID = ev.Identity()
		}
		n.Set = append(n.Set, set)
	}
	return n, nil
}
