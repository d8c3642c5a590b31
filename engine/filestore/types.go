package filestore

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/weirstore/weir/engine"
)

// types gives numbers to type names, anew at each opening: records hold names.
type types struct {
	mu   sync.RWMutex // pure memory work
	ids  map[string]engine.TypeID
	list atomic.Pointer[[]string] // by number; the first is unused. Replaced, never changed
}

// maxTypes is how many a column's 16 bits can tell apart.
const maxTypes = 1<<16 - 1

func newTypes() *types {
	t := &types{ids: make(map[string]engine.TypeID)}
	t.list.Store(&[]string{""})
	return t
}

func (t *types) names() []string { return *t.list.Load() }

func (t *types) id(name string) (engine.TypeID, error) {
	t.mu.RLock()
	id, ok := t.ids[name]
	t.mu.RUnlock()
	if ok {
		return id, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if id, ok := t.ids[name]; ok {
		return id, nil
	}
	names := t.names()
	if len(names) > maxTypes {
		return 0, fmt.Errorf("it would be one more than the %d that a store can have", maxTypes)
	}
	id = engine.TypeID(len(names))
	names = append(names, name) // a reader's shorter slice is not touched
	t.list.Store(&names)
	t.ids[name] = id
	return id, nil
}
