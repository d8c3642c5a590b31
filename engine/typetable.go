package engine

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// typeTable gives numbers to type names. The engine remembers what it has looked up.
type typeTable struct {
	mu   sync.RWMutex // pure memory work
	ids  map[string]TypeID
	list atomic.Pointer[[]string] // by TypeID; the first is unused. Replaced, never changed
}

// maxTypes bounds the table: type names are code, not data.
const maxTypes = 1 << 16

func newTypeTable() *typeTable {
	t := &typeTable{ids: make(map[string]TypeID)}
	t.list.Store(&[]string{""})
	return t
}

func (t *typeTable) names() []string { return *t.list.Load() }

func (t *typeTable) id(name string) (TypeID, error) {
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
	id = TypeID(len(names))
	names = append(names, name) // a reader's shorter slice is not touched
	t.list.Store(&names)
	t.ids[name] = id
	return id, nil
}
