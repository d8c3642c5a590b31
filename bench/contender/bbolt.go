package contender

import (
	"encoding/binary"
	"path/filepath"

	"go.etcd.io/bbolt"
)

var bboltLog = Entry{
	Name: "bbolt", Kind: Logs,
	Can:  Keep | Concurrent | Durable,
	Note: "no stream index; grouped by the benchmark, since DB.Batch waits for a timer",
	Open: openBolt,
}

type bolt struct {
	*grouped
	db   *bbolt.DB
	last uint64
}

var boltBucket = []byte("events")

func openBolt(c Config) (Bus, error) {
	db, err := bbolt.Open(filepath.Join(c.Dir, "bolt.db"), 0o600, &bbolt.Options{
		NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, // both are the faster choice
	})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(boltBucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	b := &bolt{db: db}
	b.grouped = newGrouped(c, b.write)
	return b, nil
}

func (b *bolt) write(group []*groupRequest) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(boltBucket)
		bucket.FillPercent = 1 // keys only ascend
		for _, r := range group {
			for _, ev := range r.events {
				b.last++
				// bbolt keeps both slices until the transaction ends.
				key := binary.BigEndian.AppendUint64(nil, b.last)
				if err := bucket.Put(key, ev.AppendTo(make([]byte, 0, b.config.Size), b.config.Size)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (b *bolt) Read(fn func(Event)) error {
	return b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(boltBucket).ForEach(func(_, data []byte) error {
			fn(Decode(data))
			return nil
		})
	})
}

func (b *bolt) Close() error {
	b.stop()
	return b.db.Close()
}
