package main

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/weirstore/weir/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestOutput runs it some times: who gets a seat differs, how many do does not.
func TestOutput(t *testing.T) {
	for range 20 {
		var out strings.Builder
		if err := run(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		const want = `algebra: 3 students
biology: 2 students
chess: 4 students
no student takes more than 2
`
		if out.String() != want {
			t.Fatalf("got:\n%swant:\n%s", out.String(), want)
		}
	}
}

func TestTwice(t *testing.T) {
	eng, err := engine.Open(engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer eng.Close()
	if _, err := eng.Append(t.Context(), "course-chess", engine.Any, engine.New(CourseOffered{"chess", 9}).WithTags("course-chess")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []error{nil, errEnrolled} {
		if err := enrol(t.Context(), eng, "student-1", "chess"); err != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if err := enrol(t.Context(), eng, "student-1", "dancing"); err != errFull { // it is not offered
		t.Errorf("a course that there is not: %v", err)
	}
}
