package filestore

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/weirstore/weir/engine"
)

// types gives numbers to type names, anew at each opening: records hold names. Look-ups
// take no lock.
type types struct {
	mu  sync.Mutex // pure memory work
	now atomic.Pointer[typeNames]
}

// typeNames is replaced, never changed.
type typeNames struct {
	ids   map[string]engine.TypeID
	names []string // by number; names[0] is unused
}

// maxTypes is how many a column's 16 bits can tell apart.
const maxTypes = 1<<16 - 1

func newTypes() *types {
	t := new(types)
	t.now.Store(&typeNames{map[string]engine.TypeID{}, []string{""}})
	return t
}

func (t *types) names() []string { return t.now.Load().names }

func (t *types) id(name string) (engine.TypeID, error) {
	if id, ok := t.now.Load().ids[name]; ok {
		return id, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.now.Load()
	if id, ok := old.ids[name]; ok {
		return id, nil
	}
	if len(old.names) > maxTypes {
		return 0, fmt.Errorf("it would be one more than the %d that a store can have", maxTypes)
	}
	id := engine.TypeID(len(old.names))
	ids := maps.Clone(old.ids)
	ids[name] = id
	t.now.Store(&typeNames{ids, append(old.names, name)})
	return id, nil
}
