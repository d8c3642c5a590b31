package main

import (
	"fmt"
	"time"
)

// recordedTypes are the event types of the recording. The payload of each is an Action.
var recordedTypes = []string{
	"Duel", "Foul", "Free Kick", "Goalkeeper leaving line", "Interruption", "Offside",
	"Others on the ball", "Pass", "Save attempt", "Shot",
}

// Action is something that happened on the pitch.
type Action struct {
	At     time.Time    `json:"at"`
	ID     int          `json:"id"` // unique in the whole recording
	Team   int          `json:"team"`
	Player int          `json:"player"`
	Sub    string       `json:"sub"`    // narrower than the event's type
	Period string       `json:"period"` // 1H, 2H, E1, E2, and P for the shoot-out
	Sec    float64      `json:"sec"`    // into the period
	Pos    [][2]float64 `json:"pos"`    // percent of the pitch
	Tags   []int        `json:"tags"`
}

// The referee's events. Each carries the match as it stands then.
type (
	MatchStarted struct{ Match }
	GoalScored   struct {
		Match
		At      time.Time
		Player  int
		Team    string // the player's own, whichever the goal is for
		OwnGoal bool
	}
	PenaltyConverted struct { // in a shoot-out, which does not count for the score
		Match
		At     time.Time
		Player int
	}
)

// Match is who plays whom, and how it stands.
type Match struct {
	Competition string
	Kickoff     time.Time
	Home, Away  Side
}

type Side struct {
	Team      int
	Name      string
	Goals     int
	Penalties int // converted in the shoot-out
}

// standing makes the referee's events one Go type to the handlers of several of them.
type standing interface{ standing() Match }

func (m Match) standing() Match { return m }

func (m Match) String() string {
	s := fmt.Sprintf("%s %d-%d %s", m.Home.Name, m.Home.Goals, m.Away.Goals, m.Away.Name)
	if m.Home.Penalties+m.Away.Penalties > 0 {
		s += fmt.Sprintf(" (%d-%d on penalties)", m.Home.Penalties, m.Away.Penalties)
	}
	return s
}
