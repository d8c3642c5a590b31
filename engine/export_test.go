package engine

// CheckpointFailures returns how many saves have failed.
func (e *Engine) CheckpointFailures() int { return int(e.checkpoints.failed.Load()) }
