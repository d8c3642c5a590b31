package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// loadFixtures returns who plays whom, by the stream of the match.
func loadFixtures(path string) (map[string]Match, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var ref struct {
		Teams   map[int]string
		Matches map[string]struct {
			Competition string
			Kickoff     string
			Home, Away  int
		}
	}
	if err := json.Unmarshal(text, &ref); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	fixtures := make(map[string]Match, len(ref.Matches))
	for stream, m := range ref.Matches {
		kickoff, err := time.Parse(time.DateTime, m.Kickoff)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, stream, err)
		}
		fixtures[stream] = Match{
			Competition: m.Competition,
			Kickoff:     kickoff,
			Home:        Side{Team: m.Home, Name: ref.Teams[m.Home]},
			Away:        Side{Team: m.Away, Name: ref.Teams[m.Away]},
		}
	}
	return fixtures, nil
}
