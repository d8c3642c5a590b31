//go:build race

package engine

// raceDetector says that this build has the race detector.
const raceDetector = true
