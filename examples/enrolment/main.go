// Enrolment: students and courses, the classic rule over two things that are neither one
// stream nor the other. A course has so many seats, and a student takes so many courses.
//
// Each enrolment is a stream of its own, and its event is tagged with the student and the course. Who
// enrols reads the events of both, decides, and stores the event on the condition that none has come to them
// since: whoever enrols another student in another course meanwhile is not in the way.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/weirstore/weir/engine"
)

type (
	CourseOffered struct {
		Course string
		Seats  int
	}
	StudentEnrolled struct{ Student, Course string }
)

// maxCourses is how many courses a student may take.
const maxCourses = 2

var (
	errFull     = errors.New("the course is full")
	errTooMany  = fmt.Errorf("the student takes %d courses", maxCourses)
	errEnrolled = errors.New("the student is in the course already")
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, w io.Writer) (err error) {
	eng, err := engine.Open(engine.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, eng.Close()) }()
	for course, seats := range map[string]int{"algebra": 3, "biology": 2, "chess": 4} {
		offered := engine.New(CourseOffered{course, seats}).WithTags("course-" + course)
		if _, err := eng.Append(ctx, "course-"+course, engine.NoStream, offered); err != nil {
			return err
		}
	}

	// Ten students all want all courses, at the same time.
	students, inside := errgroup.WithContext(ctx)
	for i := range 10 {
		students.Go(func() error {
			for _, course := range []string{"algebra", "biology", "chess"} {
				switch err := enrol(inside, eng, fmt.Sprint("student-", i), course); err {
				case nil, errFull, errTooMany:
				default:
					return err
				}
			}
			return nil
		})
	}
	if err := students.Wait(); err != nil {
		return err
	}

	for _, course := range []string{"algebra", "biology", "chess"} {
		events, _, err := eng.Matching(ctx, engine.Criterion{Types: []string{"StudentEnrolled"}, Tags: []string{"course-" + course}})
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s: %d students\n", course, len(events))
	}
	most := 0
	for i := range 10 {
		events, _, err := eng.Matching(ctx, engine.Criterion{Tags: []string{fmt.Sprint("student-", i)}})
		if err != nil {
			return err
		}
		most = max(most, len(events))
	}
	fmt.Fprintf(w, "no student takes more than %d\n", most)
	return nil
}

// maxAttempts bounds the retries of one enrolment. Each one that is refused is another's success
// with the same student or course.
const maxAttempts = 100

func enrol(ctx context.Context, eng *engine.Engine, student, course string) error {
	boundary := []engine.Criterion{
		{Types: []string{"StudentEnrolled"}, Tags: []string{student}},
		{Types: []string{"CourseOffered", "StudentEnrolled"}, Tags: []string{"course-" + course}},
	}
	var last error
	for range maxAttempts {
		events, upTo, err := eng.Matching(ctx, boundary...)
		if err != nil {
			return err
		}
		if err := decide(events, student, course); err != nil {
			return err
		}
		_, err = eng.Commit(ctx, engine.Tx{
			Writes: []engine.TxWrite{{
				Stream:   "enrolment-" + student + "-" + course,
				Expected: engine.NoStream,
				Events:   []engine.NewEvent{engine.New(StudentEnrolled{student, course}).WithTags(student, "course-"+course)},
			}},
			Conditions: []engine.Condition{{Any: boundary, After: upTo}},
		})
		if _, refused := errors.AsType[*engine.TxError](err); !refused {
			return err // nil, or something that another attempt does not mend
		}
		last = err
	}
	return fmt.Errorf("enrol: gave up after %d attempts: %w", maxAttempts, last)
}

// decide says what keeps a student from a course. The events are all of both.
func decide(events []engine.Event, student, course string) error {
	seats, taken, courses := 0, 0, 0
	for _, ev := range events {
		switch data := ev.Data.(type) {
		case CourseOffered:
			seats = data.Seats
		case StudentEnrolled:
			if data == (StudentEnrolled{student, course}) {
				return errEnrolled
			}
			if slices.Contains(ev.Meta.Tags(), "course-"+course) {
				taken++
			}
			if data.Student == student {
				courses++
			}
		}
	}
	switch {
	case courses >= maxCourses:
		return errTooMany
	case taken >= seats:
		return errFull
	}
	return nil
}
