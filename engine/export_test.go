package engine

// CheckpointFailures returns how many saves have failed.
func (e *Engine) CheckpointFailures() int { return int(e.checkpoints.failed.Load()) }

// CachedStates returns how many folded states are kept.
func (e *Engine) CachedStates() (n int) {
	for i := range e.folds.shard {
		sh := &e.folds.shard[i]
		sh.mu.Lock()
		n += sh.order.Len()
		sh.mu.Unlock()
	}
	return n
}

// Deciding returns how many calls of Decide have not returned.
func (e *Engine) Deciding() int { return int(e.deciding.Load()) }

// KeptHandlers returns how many handlers' checkpoints are being kept.
func (e *Engine) KeptHandlers() int {
	if e.checkpoints.take(e.ctx) != nil {
		return -1
	}
	defer e.checkpoints.give()
	return len(e.checkpoints.kept)
}

// GuardWalks returns how many fingerprints the guard has taken, and how many of these ended in a
// panic. Both are 0 if it is off.
func (e *Engine) GuardWalks() (walks, failed int) {
	if e.guard == nil {
		return 0, 0
	}
	return int(e.guard.walks.Load()), int(e.guard.failed.Load())
}

// GuardedCalls returns how many guarded calls have not returned.
func (e *Engine) GuardedCalls() int {
	e.guard.mu.Lock()
	defer e.guard.mu.Unlock()
	return len(e.guard.calls)
}

// RaceDetector says that this is a build with the race detector.
const RaceDetector = raceDetector

// Fingerprint is what the guard knows of an event at one moment.
type Fingerprint struct{ f *fingerprint }

// FingerprintOf walks an event.
func FingerprintOf(ev Event) Fingerprint { return Fingerprint{fingerprintOf(&ev)} }

// Compare returns the first place that is another now.
func (f Fingerprint) Compare(ev Event) (path string, same bool) {
	return f.f.compare(fingerprintOf(&ev), &ev)
}

// Mutable reports whether the guard looks at an event at all.
func Mutable(ev Event) bool { return mutable(&ev) }

// The bounds of a fingerprint.
const (
	MaxFingerprintValues = maxFingerprintValues
	MaxFingerprintBytes  = maxFingerprintBytes
)

// NamesWithOneHash puts names into a table of streams under one and the same hash, and returns those that
// it does not give back.
func NamesWithOneHash(names []string, hash uint32) (lost []string) {
	var t nameTable[string]
	self := func(s *string) string { return *s }
	for i := range names {
		if v := t.get(hash, names[i], self); v != nil {
			lost = append(lost, names[i]) // found before it was there
		}
		t.put(hash, &names[i])
	}
	for i := range names {
		if t.get(hash, names[i], self) != &names[i] {
			lost = append(lost, names[i])
		}
	}
	return lost
}
