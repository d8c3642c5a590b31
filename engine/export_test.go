package engine

// CheckpointFailures returns how many saves have failed.
func (e *Engine) CheckpointFailures() int { return int(e.checkpoints.failed.Load()) }

// KeptHandlers returns how many handlers' checkpoints are being kept.
func (e *Engine) KeptHandlers() int {
	if e.checkpoints.take(e.ctx) != nil {
		return -1
	}
	defer e.checkpoints.give()
	return len(e.checkpoints.kept)
}
