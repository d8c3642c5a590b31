package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
)

// SnapshotPolicy says when the state that a [Decider] has folded is stored by the backend, apart
// from the events, so that the next fold reads only what came after it. The zero value stores none.
//
// A snapshot is never needed for correctness. It is used if it was made under the same Name and Version,
// if the events it was folded from are those the stream has now, and if it can be decoded; otherwise
// the events are folded. On a backend that does not implement [Snapshotting] a policy has no effect.
//
// The state is encoded by the codec of the engine ([Options].Codec), and is stored only if what
// is decoded again equals it by reflect.DeepEqual: a state with unexported fields is none for JSON. What cannot
// be stored is logged once for each stream and counted ([Stats].SnapshotsFailed), and fails no command.
type SnapshotPolicy struct {
	// Name says who folds: a stream may be folded by several deciders. Deciders with one name
	// and version must fold alike. Required.
	Name string
	// Version is that of the fold: raise it when Evolve, the type of the state, or the shape that
	// events are read in has changed. Snapshots of other versions are ignored, and overwritten in time.
	Version uint32
	// Every stores a snapshot after a command once there are so many events behind the last one.
	// 0 for no such snapshots. A new engine counts from the snapshot that it has found.
	Every int
	// Leaving stores a snapshot when the state leaves memory: when it is evicted, see
	// Options.CachedStates, and in Close, unless that runs out of time.
	Leaving bool
}

// check says what is wrong with a policy for states of a type.
func (p *SnapshotPolicy) check(op string, state reflect.Type) error {
	if *p == (SnapshotPolicy{}) {
		return nil
	}
	if err := checkName(op, "Decider.Snapshots.Name", p.Name); err != nil {
		return err
	}
	switch {
	case p.Every < 0:
		return invalid(op, "Decider.Snapshots.Every", p.Every, "0 or more")
	case p.Every == 0 && !p.Leaving:
		return invalid(op, "Decider.Snapshots.Every", p.Every, "at least 1, unless Leaving is set")
	case state.Kind() == reflect.Interface:
		return invalid(op, "type of the state, for Decider.Snapshots,", state, "a type that is not an interface: what is decoded is not known otherwise")
	}
	return nil
}

// Snapshot is a folded state as a backend keeps it.
type Snapshot struct {
	Name  string  // of the policy; a stream has one snapshot for each
	Fold  uint32  // Version of the policy
	First Version // of the first event that was folded

	// The last event that was folded. A snapshot is used only if the stream still has it.
	Version  Version
	Position Position
	Time     time.Time
	ID       string

	Encoding string // of Data, as in a [Payload]
	Data     []byte
}

// Snapshotting is implemented by backends that keep snapshots of folded states. Snapshots
// are derived from events: a backend may lose them at any time, but what it returns is what was
// saved, and it keeps none that a crash can leave without its events.
//
// SaveSnapshot is never called at the same time as Commit, Truncate, Delete or another SaveSnapshot
// for the same stream. Data is handed over: it is immutable from SaveSnapshot on.
type Snapshotting interface {
	// SaveSnapshot stores a snapshot of a stream in place of the one that has its name. It need not be durable, but
	// the events up to its Version must be before it can be found after a crash.
	SaveSnapshot(ctx context.Context, stream StreamState, s Snapshot) error
	// LoadSnapshot returns the snapshot of a stream that has a name, false if there is none. Those
	// of a deleted stream are gone. An error is taken for a snapshot that is lost.
	LoadSnapshot(ctx context.Context, stream StreamState, name string) (Snapshot, bool, error)
}

// progress is how far a fold has come. Owner: the stream's goroutine.
type progress struct {
	first    Version // of the first event; 0 if there is none
	at       Version // of the last one, of which the rest tells
	position Position
	time     time.Time
	id       string

	saved Version // at this version a snapshot was found, saved, or tried to be
	// spoiled says that Evolve or Decide did not return: the state may be half of something.
	spoiled bool
}

func (p *progress) come() *progress { return p }

func (p *progress) took(ev *Event) {
	if p.first == 0 {
		p.first = ev.Version
	}
	p.at, p.position, p.time, p.id = ev.Version, ev.Position, ev.Time, ev.ID
}

// due reports whether the policy wants a snapshot after a command.
func (p *progress) due(policy *SnapshotPolicy) bool {
	return policy.Every > 0 && p.unsaved() && uint64(p.at-p.saved) >= uint64(policy.Every)
}

// unsaved reports whether there is something new to be saved.
func (p *progress) unsaved() bool { return p.at > p.saved && !p.spoiled }

// restore brings a fold of no events to a snapshot that ends at or before a version, if there
// is one that fits. State is what the backend said before: whatever comes later is not looked at. It reports
// whether it has done so; if not, the fold is as it was.
func (s *snapshots) restore(ctx context.Context, state StreamState, f folded, upTo Version) bool {
	policy := f.policy()
	if s.backend == nil || policy.Name == "" || state.Version == 0 || state.Deleted {
		return false
	}
	snap, there, err := s.load(ctx, state, policy.Name)
	if err == nil && there && snap.Fold == policy.Version && snap.Version <= min(upTo, state.Version) {
		var fits bool
		if fits, err = s.fits(ctx, state, &snap); fits {
			if err = s.decode(f, &snap); err == nil {
				return true
			}
		}
	}
	if err != nil && ctx.Err() == nil { // else the caller hears of it from what comes next
		s.failedWith("weir: snapshot not used; the events are read", state.Name, policy.Name, err)
	}
	return false
}

// restoreFor is restore for a fold that no owner has, of as many events as upTo says, 0 for all. It
// returns the version behind which no event belongs to the state: what is removed after the snapshot was
// compared with the events would be in it, while what came later is not without that.
func (s *snapshots) restoreFor(ctx context.Context, stream string, f folded, upTo Version) (end Version) {
	if upTo == 0 {
		upTo = math.MaxUint64
	}
	state, err := s.stateOf(ctx, stream)
	if err != nil || !s.restore(ctx, state, f, upTo) {
		return math.MaxUint64 // reading the events tells what is wrong
	}
	return state.Version
}

func (s *snapshots) stateOf(ctx context.Context, stream string) (_ StreamState, err error) {
	defer recovered(&err, "load")
	return s.eng.backend.Load(ctx, stream)
}

func (s *snapshots) load(ctx context.Context, state StreamState, name string) (_ Snapshot, _ bool, err error) {
	defer recovered(&err, "load a snapshot")
	return s.backend.LoadSnapshot(ctx, state, name)
}

// fits reports whether the events that a snapshot was folded from are those that the stream has:
// what is removed of a stream are its first events, and its last one is compared with what was noted.
func (s *snapshots) fits(ctx context.Context, state StreamState, snap *Snapshot) (bool, error) {
	last, there, err := s.event(ctx, state, max(snap.Version, 1), snap.Version)
	if err != nil || !there || last.Version != snap.Version || last.Position != snap.Position ||
		!last.Time.Equal(snap.Time) || last.ID != snap.ID {
		return false, err
	}
	// This one last: all that was folded is there at the moment of this read.
	first, there, err := s.event(ctx, state, 1, snap.Version)
	return err == nil && there && first.Version == snap.First, err
}

// event returns the first event that a stream has from one version to another.
func (s *snapshots) event(ctx context.Context, state StreamState, from, to Version) (_ Event, there bool, err error) {
	defer recovered(&err, "read")
	var ev [1]Event
	for from <= to {
		n, next, err := s.eng.backend.ReadStream(ctx, state, StreamQuery{From: from, To: to}, ev[:])
		if err != nil || n > 0 {
			return ev[0], n > 0, err
		}
		if next <= from {
			break
		}
		from = next
	}
	return Event{}, false, nil
}

// codecError is a codec's error without its text, which may quote the payload.
type codecError struct {
	what string
	err  error
}

func (e *codecError) Error() string { return fmt.Sprintf("%s: %T", e.what, e.err) }

// decode makes a snapshot the state of a fold of no events.
func (s *snapshots) decode(f folded, snap *Snapshot) error {
	v, err := s.eng.codecs.decode(snap.Encoding, snap.Data, f.stateType())
	if err != nil {
		return &codecError{"the codec cannot decode it", err}
	}
	f.restore(v)
	*f.come() = progress{
		first: snap.First, at: snap.Version, position: snap.Position, time: snap.Time, id: snap.ID, saved: snap.Version,
	}
	return nil
}

// save stores a snapshot of a fold. Whatever comes of it, the next one is due when as many
// events have come again. The goroutine that owns the fold and the stream.
func (s *snapshots) save(ctx context.Context, state StreamState, f folded) {
	p, policy := f.come(), f.policy()
	p.saved = p.at
	encoding, data, err := s.encode(f)
	if err == nil {
		err = s.store(ctx, state, Snapshot{
			Name: policy.Name, Fold: policy.Version, First: p.first,
			Version: p.at, Position: p.position, Time: p.time, ID: p.id, Encoding: encoding, Data: data,
		})
	}
	if err != nil {
		s.failedWith("weir: snapshot not stored", state.Name, policy.Name, err)
		return
	}
	s.saved.Add(1)
}

func (s *snapshots) store(ctx context.Context, state StreamState, snap Snapshot) (err error) {
	defer recovered(&err, "save a snapshot")
	return s.backend.SaveSnapshot(ctx, state, snap)
}

var errStateChanged = errors.New("the state is not the same when it is decoded again: it has unexported fields, or others that the codec leaves out")

// encode returns the state of a fold as bytes, from which the same state can be made.
func (s *snapshots) encode(f folded) (encoding string, data []byte, err error) {
	encoding, data, err = s.eng.codecs.encode(f.stateNow())
	if err != nil {
		return "", nil, &codecError{"the codec cannot encode the state", err}
	}
	again, err := s.eng.codecs.decode(encoding, data, f.stateType())
	if err != nil {
		return "", nil, &codecError{"the codec cannot decode the state again", err}
	}
	if !reflect.DeepEqual(again, f.stateNow()) {
		return "", nil, errStateChanged
	}
	return encoding, data, nil
}
