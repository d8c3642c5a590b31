package engine

import (
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"unsafe"
)

// typeRegistry knows which Go type an event type's name stands for, and its number in
// the backend. Look-ups take no lock.
type typeRegistry struct {
	backend Backend
	mu      sync.Mutex // held while a type is added, across Backend.TypeID
	now     atomic.Pointer[registered]
}

// registered is replaced, never changed.
type registered struct {
	byName map[string]*eventType
	byGo   map[reflect.Type]*eventType
}

// eventType is replaced, never changed: what depends on it can be told apart by its pointer.
type eventType struct {
	name string
	id   TypeID
	goes reflect.Type // nil while only the name is known
	ups  []upcaster   // from schema version 1, 2, …
}

func newTypeRegistry(b Backend) *typeRegistry {
	r := &typeRegistry{backend: b}
	r.now.Store(&registered{map[string]*eventType{}, map[reflect.Type]*eventType{}})
	return r
}

// Register says that events of Go type T have the type name given. Without it a type is
// registered when it is first appended or handled, under what its EventType() string
// method returns, or else under its Go name; registering keeps stored names stable when Go types
// are renamed, and tells apart types of the same name in different packages.
//
// With a backend that stores bytes, events of a registered type are read back as values of it: T,
// or *T if that is what was registered. Those of other types are read back undecoded, see [Event], so
// register before reading.
//
// It returns a [*TypeConflictError] if T has another name or the name another type, and an
// [*InvalidError] for a name that cannot be one.
func Register[T any](e *Engine, name string) error {
	if err := checkName("register", "event type", name); err != nil {
		return err
	}
	goes := reflect.TypeFor[T]()
	if err := checkConcrete(goes); err != nil {
		return err
	}
	_, err := e.types.add(name, goes)
	return err
}

// checkConcrete refuses interfaces, since no payload has an interface's type, and Payload.
func checkConcrete(goes reflect.Type) error {
	op := fmt.Sprintf("event type of Go type %v", goes)
	switch {
	case goes.Kind() == reflect.Interface:
		return &InvalidError{op, "its kind", goes.Kind(), "a concrete type, or the event types that Types names"}
	case deref(goes) == payloadType:
		return &InvalidError{op, "the Go type", goes, payloadRule}
	}
	return nil
}

// payloadRule says why a [Payload] cannot be appended: it would be read back as something else.
const payloadRule = "what the bytes stand for: a Payload is made by the engine"

// reservedRule keeps what a [Process] notes from being mistaken.
const reservedRule = `a name that does not begin with "$": those are Weir's`

// named is how a Go type says its own event type. It is asked once, on the zero value.
type named interface{ EventType() string }

// usedType is the answer to the last question for a type: events that follow one another are often
// of one type.
type usedType struct {
	in         *registered    // as long as this is what is registered, the answer holds
	goes       unsafe.Pointer // the payload's Go type, see words
	t          *eventType
	own        bool // goes is t's own, which an event need not name
	unmeasured bool // what measured denies of goes
}

// words returns what an interface value is made of: a pointer that stands for the Go type, nil for none,
// and one that is nil for a nil pointer. To compare two [reflect.Type] instead costs a call each time, and to
// ask one whether it is a pointer's another: together half of what preparing an event takes.
func words(v *any) (goes, data unsafe.Pointer) {
	w := (*[2]unsafe.Pointer)(unsafe.Pointer(v))
	return w[0], w[1]
}

// answers reports whether the answer is that for an event, too, with what is registered now, and its payload
// no nil pointer.
func (u *usedType) answers(ev *NewEvent, now *registered) bool {
	goes, data := words(&ev.Data)
	return now == u.in && goes == u.goes && data != nil && (ev.Type == "" && u.own || ev.Type == u.t.name)
}

// ofEvent returns the type of an event to be appended. Last is the caller's own: it is the answer
// if it answers this.
func (r *typeRegistry) ofEvent(ev *NewEvent, last *usedType) (*eventType, error) {
	goes := reflect.TypeOf(ev.Data)
	if goes.Kind() == reflect.Pointer && reflect.ValueOf(ev.Data).IsNil() {
		return nil, &InvalidError{What: "payload", Value: fmt.Sprintf("a nil %v", goes), Rule: "a value"}
	}
	now := r.now.Load()
	t, err := r.find(ev, goes)
	if err == nil && t.name[0] != '$' && now == r.now.Load() { // those of Weir are not for everybody
		word, _ := words(&ev.Data)
		*last = usedType{now, word, t, t.goes == goes, !measured(ev.Data)}
	}
	return t, err
}

// find is ofEvent for an event whose payload has the Go type goes.
func (r *typeRegistry) find(ev *NewEvent, goes reflect.Type) (*eventType, error) {
	if ev.Type == "" {
		return r.ofGo(goes)
	}
	if deref(goes) == payloadType {
		return nil, &InvalidError{What: "payload", Value: goes, Rule: payloadRule}
	}
	if ev.Type[0] == '$' && !isNote(ev.Data) {
		return nil, &InvalidError{What: "type", Value: ev.Type, Rule: reservedRule}
	}
	t := r.now.Load().byName[ev.Type]
	if t == nil {
		if err := checkName("", "type", ev.Type); err != nil {
			return nil, err
		}
		var err error
		if t, err = r.add(ev.Type, nil); err != nil {
			return nil, err
		}
	}
	if t.goes != nil && t.goes != goes {
		return nil, &TypeConflictError{Name: ev.Type, Go: goes, OtherGo: t.goes}
	}
	return t, nil
}

// ofGo returns the event type of a Go type, registered under its own name if need be.
func (r *typeRegistry) ofGo(goes reflect.Type) (*eventType, error) {
	if t := r.now.Load().byGo[goes]; t != nil {
		return t, nil
	}
	if err := checkConcrete(goes); err != nil {
		return nil, err
	}
	op := fmt.Sprintf("event type of Go type %v", goes)
	name, err := ownName(goes)
	if err != nil {
		return nil, fmt.Errorf("engine: %s: %w", op, err)
	}
	if name == "" || deref(goes).PkgPath() == "" {
		return nil, &InvalidError{op, "its name", goes.String(), "a named type of a package, or NewEvent.Type, or Register"}
	}
	if err := checkName(op, "its name", name); err != nil {
		return nil, err
	}
	return r.add(name, goes)
}

// ownName returns what a Go type calls itself: what EventType returns for its zero value,
// or its name.
func ownName(goes reflect.Type) (name string, err error) {
	defer recovered(&err, "EventType of the zero value")
	if n, ok := reflect.New(deref(goes)).Interface().(named); ok {
		return n.EventType(), nil
	}
	return deref(goes).Name(), nil
}

func deref(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// ofName returns the number of a type name.
func (r *typeRegistry) ofName(name string) (TypeID, error) {
	if t := r.now.Load().byName[name]; t != nil {
		return t.id, nil
	}
	t, err := r.add(name, nil)
	if err != nil {
		return 0, err
	}
	return t.id, nil
}

// add registers a name, and the Go type that it stands for if that is not nil.
func (r *typeRegistry) add(name string, goes reflect.Type) (*eventType, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.now.Load()
	t := old.byName[name]
	switch {
	case goes != nil && name[0] == '$':
		return nil, &InvalidError{fmt.Sprintf("event type of Go type %v", goes), "its name", name, reservedRule}
	case goes != nil && old.byGo[goes] != nil && old.byGo[goes].name != name:
		return nil, &TypeConflictError{Name: name, OtherName: old.byGo[goes].name, Go: goes}
	case t != nil && goes != nil && t.goes != nil && t.goes != goes:
		return nil, &TypeConflictError{Name: name, Go: goes, OtherGo: t.goes}
	case t != nil && (goes == nil || t.goes == goes):
		return t, nil
	}
	id, err := r.backend.TypeID(name)
	if err != nil {
		return nil, fmt.Errorf("engine: event type %q: %w", name, err)
	}
	now := &eventType{name: name, id: id, goes: goes}
	if t != nil {
		now.ups = t.ups
	}
	r.putLocked(now)
	return now, nil
}

// putLocked adds a type, or takes the place of the one of that name. REQUIRES: r.mu.
func (r *typeRegistry) putLocked(t *eventType) {
	old := r.now.Load()
	now := &registered{make(map[string]*eventType, len(old.byName)+1), make(map[reflect.Type]*eventType, len(old.byGo)+1)}
	for n, o := range old.byName {
		now.byName[n] = o
	}
	for g, o := range old.byGo {
		now.byGo[g] = o
	}
	now.byName[t.name] = t
	if t.goes != nil {
		now.byGo[t.goes] = t
	}
	r.now.Store(now)
}

// set returns the set of the types with these names; nil for none.
func (r *typeRegistry) set(op string, names []string) (*TypeSet, error) {
	if len(names) == 0 {
		return nil, nil
	}
	ids := make([]TypeID, len(names))
	for i, name := range names {
		if err := checkName(op, "event type", name); err != nil {
			return nil, err
		}
		id, err := r.ofName(name)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return newTypeSet(ids...), nil
}
