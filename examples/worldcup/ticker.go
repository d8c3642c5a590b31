package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/weirstore/weir/engine"
)

// ticker writes goals as they fall.
type ticker struct{ w io.Writer }

func (t ticker) handle(_ context.Context, ev engine.Of[standing]) error {
	var at time.Time
	note := ""
	switch data := ev.Data.(type) {
	case GoalScored:
		at = data.At
		if data.OwnGoal {
			note = ", own goal"
		}
	case PenaltyConverted:
		at = data.At
	}
	_, err := fmt.Fprintf(t.w, "%s  %v%s\n", at.Format("_2 Jan 15:04"), ev.Data.standing(), note)
	return err
}
