package main

import (
	"io"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The program prints to os.Stdout, so that it has nothing in it that a reader would
// have to leave out. Its output fits into the pipe.
func TestOutput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	stdout := os.Stdout
	os.Stdout = w
	main()
	os.Stdout = stdout
	w.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `handler: welcome, John
customer-1@1 CustomerCreated {FirstName:John LastName:Smith}
customer-1@2 CustomerDeleted {Reason:moved away}
`
	if string(got) != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}
