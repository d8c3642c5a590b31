package engine

import "fmt"

// Durability says what an acknowledged event survives.
type Durability uint8

const (
	// Volatile: nothing. The event is in the memory of this process.
	Volatile Durability = iota + 1
	// Written: the death of the process. The event was handed to the operating system, and
	// reaches the disk a little later: what a power cut may take is said by the backend.
	Written
	// Synced: the death of the machine. The event is on the disk.
	Synced
)

func (d Durability) String() string {
	switch d {
	case Volatile:
		return "volatile"
	case Written:
		return "written"
	case Synced:
		return "synced"
	}
	return fmt.Sprintf("Durability(%d)", uint8(d))
}
