package engine

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// typeTable gives numbers to type names. Look-ups take no lock.
type typeTable struct {
	mu  sync.Mutex
	now atomic.Pointer[typeNames] // replaced, never changed
}

type typeNames struct {
	ids   map[string]TypeID
	names []string // by TypeID; names[0] is unused
}

// maxTypes bounds the table: type names are code, not data.
const maxTypes = 1 << 16

func newTypeTable() *typeTable {
	t := new(typeTable)
	t.now.Store(&typeNames{ids: map[string]TypeID{}, names: []string{""}})
	return t
}

func (t *typeTable) names() []string { return t.now.Load().names }

func (t *typeTable) id(name string) (TypeID, error) {
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
	id := TypeID(len(old.names))
	ids := make(map[string]TypeID, len(old.ids)+1)
	for n, i := range old.ids {
		ids[n] = i
	}
	ids[name] = id
	t.now.Store(&typeNames{ids: ids, names: append(old.names, name)})
	return id, nil
}
