package work

import (
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
)

// Profile says what profile is to be written of a run, while its clock runs, and into which file. It makes the run
// slower. A work that is repeated is profiled the last time.
type Profile struct {
	Kind string // one of ProfileKinds, or none
	Path string
}

// ProfileKinds are the kinds of profiles: those of runtime/pprof, and what runtime/trace writes.
var ProfileKinds = []string{"cpu", "allocs", "mutex", "block", "trace"}

// begin begins to profile. The function that it returns ends that, and writes the file.
func (p Profile) begin() (end func() error, err error) {
	if p.Kind == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(p.Path)
	if err != nil {
		return nil, err
	}
	write := func() error { return pprof.Lookup(p.Kind).WriteTo(f, 0) }
	switch p.Kind {
	case "cpu":
		err = pprof.StartCPUProfile(f)
		write = func() error { pprof.StopCPUProfile(); return nil }
	case "trace":
		err = trace.Start(f)
		write = func() error { trace.Stop(); return nil }
	case "mutex":
		runtime.SetMutexProfileFraction(1)
	case "block":
		runtime.SetBlockProfileRate(1)
	case "allocs": // of the whole process: what was made before the clock started stands in it, too
	default:
		err = fmt.Errorf("work: no such profile: %q, want one of %q", p.Kind, ProfileKinds)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() error {
		if err := write(); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	}, nil
}
