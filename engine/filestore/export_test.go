package filestore

// Groups returns how many writes of the log there were.
func Groups(s *Store) int { return int(s.groups.Load()) }
