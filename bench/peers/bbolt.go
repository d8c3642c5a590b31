package peers

import (
	"encoding/binary"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/weirstore/weir/bench/contender"
)

var bboltLog = contender.Entry{
	Name: "bbolt", Kind: contender.Logs,
	Can:  contender.Keep | contender.Concurrent | contender.Durable,
	Note: "no stream index; grouped by the benchmark, since DB.Batch waits for a timer",
	Open: openBolt,
}

type bolt struct {
	*contender.Grouped
	db   *bbolt.DB
	last uint64
}

var boltBucket = []byte("events")

func openBolt(c contender.Config) (contender.Bus, error) {
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
	b.Grouped = contender.NewGrouped(c, b.write)
	return b, nil
}

func (b *bolt) write(group []*contender.GroupRequest) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(boltBucket)
		bucket.FillPercent = 1 // keys only ascend
		for _, r := range group {
			for _, ev := range r.Events {
				b.last++
				// bbolt keeps both slices until the transaction ends.
				key := binary.BigEndian.AppendUint64(nil, b.last)
				if err := bucket.Put(key, ev.AppendTo(make([]byte, 0, b.Config.Size), b.Config.Size)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (b *bolt) Read(fn func(contender.Event)) error {
	return b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(boltBucket).ForEach(func(_, data []byte) error {
			fn(contender.Decode(data))
			return nil
		})
	})
}

func (b *bolt) Close() error {
	b.Stop()
	return b.db.Close()
}
