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
