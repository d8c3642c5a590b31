package peers

import (
	"database/sql"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/weirstore/weir/bench/contender"
)

var sqliteLog = contender.Entry{
	Name: "SQLite (modernc)", Kind: contender.Logs,
	Can:  contender.Keep | contender.Concurrent | contender.Durable,
	Note: "keeps a stream index; WAL, synchronous FULL; grouped by the benchmark",
	Open: openSQLite,
}

type sqlite struct {
	*contender.Grouped
	db       *sql.DB
	insert   *sql.Stmt
	last     int64
	versions []int64 // by stream
	buf      []byte
}

func openSQLite(c contender.Config) (contender.Bus, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(c.Dir, "events.db")+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(30000)")
	if err != nil {
		return nil, err
	}
	s := &sqlite{db: db, versions: make([]int64, len(c.Streams))}
	if _, err = db.Exec(`CREATE TABLE events (position INTEGER PRIMARY KEY, stream TEXT NOT NULL,
		version INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (stream, version))`); err == nil {
		s.insert, err = db.Prepare("INSERT INTO events VALUES (?, ?, ?, ?)")
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	s.Grouped = contender.NewGrouped(c, s.write)
	return s, nil
}

func (s *sqlite) write(group []*contender.GroupRequest) error {
	tx, err := s.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	insert := tx.Stmt(s.insert)
	for _, r := range group {
		for _, ev := range r.Events {
			s.last++
			s.versions[r.Stream]++
			s.buf = ev.AppendTo(s.buf[:0], s.Config.Size)
			if _, err := insert.Exec(s.last, s.Config.Streams[r.Stream], s.versions[r.Stream], s.buf); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}

func (s *sqlite) Read(fn func(contender.Event)) error {
	rows, err := s.db.Query("SELECT data FROM events ORDER BY position")
	if err != nil {
		return err
	}
	defer rows.Close()
	var data sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&data); err != nil {
			return err
		}
		fn(contender.Decode(data))
	}
	return rows.Err()
}

func (s *sqlite) Close() error {
	s.Stop()
	s.insert.Close()
	return s.db.Close()
}
