package engine

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
)

// readConfig is what the options of a read say.
type readConfig struct {
	stream    bool // of one stream, in versions
	from      uint64
	begin     string // the option that says where to begin
	limit     int
	backward  bool
	follow    bool
	encoded   bool // payloads are left as the backend has them
	typeNames []string
	filter    Filter
}

// From begins a read of the whole store at a position: forward at the events stored then
// and later, backward at that event and earlier.
func From(pos Position) ReadOption { return positionOption("From", pos, 0) }

// After begins a read of the whole store behind a position: After(0) is the beginning.
// It does not go with [Backward].
func After(pos Position) ReadOption { return positionOption("After", pos, 1) }

func positionOption(name string, pos Position, add uint64) ReadOption {
	return option{name: name, read: func(c *readConfig) *InvalidError {
		if c.stream {
			return refuse(name, pos, name+"Version for a stream")
		}
		return c.setFrom(name, uint64(pos), add)
	}}
}

// FromVersion begins a read of a stream at a version.
func FromVersion(v Version) ReadOption { return versionOption("FromVersion", v, 0) }

// AfterVersion begins a read of a stream behind a version. It does not go with [Backward].
func AfterVersion(v Version) ReadOption { return versionOption("AfterVersion", v, 1) }

func versionOption(name string, v Version, add uint64) ReadOption {
	return option{name: name, read: func(c *readConfig) *InvalidError {
		if !c.stream {
			return refuse(name, v, strings.TrimSuffix(name, "Version")+" for the whole store")
		}
		return c.setFrom(name, uint64(v), add)
	}}
}

func (c *readConfig) setFrom(name string, n, add uint64) *InvalidError {
	if c.begin != "" {
		return refuse(name, n, "no second beginning beside "+c.begin)
	}
	if n+add < n {
		return refuse(name, n, "less: nothing comes after it")
	}
	c.from, c.begin = n+add, fmt.Sprintf("%s(%d)", name, n)
	return nil
}

// Limit ends a read after n events.
func Limit(n int) ReadOption {
	return option{name: "Limit", read: func(c *readConfig) *InvalidError {
		c.limit = n
		return positive("Limit", n)
	}}
}

// Backward reads from the newest event to the oldest, or from where From says.
func Backward() ReadOption {
	return option{name: "Backward", read: func(c *readConfig) *InvalidError {
		c.backward = true
		return nil
	}}
}

// Follow does not end a read at the newest event: it waits for more, until the context
// ends, which is not an error, or the engine closes, which is [ErrClosed]. A reader that
// waits when the engine closes gets everything before that; one that is in its loop's body is not
// waited for, and may get the error before the last events.
func Follow() ReadOption {
	return option{name: "Follow", read: func(c *readConfig) *InvalidError {
		c.follow = true
		return nil
	}}
}

// Encoded leaves payloads as they are stored: Event.Data is a [*Payload], and no codec or
// upcaster is called. It is for what copies, counts or exports events. A backend that keeps Go values
// has no bytes to give, and who counts on bytes must not meet a value: there it is an [*InvalidError].
func Encoded() ReadOption {
	return option{name: "Encoded", read: func(c *readConfig) *InvalidError {
		c.encoded = true
		return nil
	}}
}

// Categories wants only events of streams of these categories.
func Categories(names ...string) ReadOption {
	return option{name: "Categories", read: func(c *readConfig) *InvalidError {
		if c.stream {
			return refuse("Categories", names, "none for a stream: it has one category")
		}
		if len(names) == 0 {
			return refuse("number of Categories", 0, "at least 1")
		}
		c.filter.Categories = append(c.filter.Categories, names...)
		return nil
	}}
}

// Types wants only events of these types. For a handler it takes the place of the type
// that it would get by itself.
func Types(names ...string) ReadHandlerOption {
	check := func() *InvalidError {
		if len(names) == 0 {
			return refuse("number of Types", 0, "at least 1")
		}
		return nil
	}
	return option{
		name: "Types",
		read: func(c *readConfig) *InvalidError {
			c.typeNames = append(c.typeNames, names...)
			return check()
		},
		apply: func(c *handlerConfig) *InvalidError {
			c.typeNames = append(c.typeNames, names...)
			return check()
		},
	}
}

// Read returns the events of a stream in the order of their versions. A stream that
// nobody wrote to is empty: that is not an error.
//
// The events are those of the moment at which the loop begins (unless it follows); appending
// inside the loop is fine, no lock is held, and leaving it early leaves nothing behind. An
// error ends the loop: an invalid option as an [*InvalidError], ctx's cause, the backend's error, or
// a [*DecodeError].
func (e *Engine) Read(ctx context.Context, stream string, opts ...ReadOption) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		op := "read " + quote(stream)
		c, err := e.readConfig(op, true, opts)
		if err == nil {
			err = checkName("read", "stream name", stream)
		}
		if err != nil {
			yield(Event{}, err)
			return
		}
		if err := e.readStream(ctx, stream, c, yield); err != nil {
			yield(Event{}, opError("read", stream, err))
		}
	}
}

// ReadAll returns the events of the whole store in the order of their positions. It
// behaves like Read in all else.
func (e *Engine) ReadAll(ctx context.Context, opts ...ReadOption) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		c, err := e.readConfig("read all", false, opts)
		if err != nil {
			yield(Event{}, err)
			return
		}
		if err := e.readAll(ctx, c, yield); err != nil {
			yield(Event{}, opError("read all", "", err))
		}
	}
}

func (e *Engine) readConfig(op string, stream bool, opts []ReadOption) (*readConfig, error) {
	c := &readConfig{stream: stream, limit: int(^uint(0) >> 1)}
	for _, opt := range opts {
		if opt == nil {
			return nil, invalid(op, "an option", nil, "a ReadOption")
		}
		o := opt.readOption()
		if o.read == nil {
			return nil, invalid(op, "an option", o.name, "one for reads")
		}
		if bad := o.read(c); bad != nil {
			bad.Op = op
			return nil, bad
		}
	}
	switch {
	case c.encoded && !e.caps.Encoded:
		return nil, invalid(op, "Encoded with backend", e.caps.Name, "one that stores bytes")
	case c.backward && c.follow:
		return nil, invalid(op, "order of a read with Follow", "Backward", "forward")
	case c.backward && strings.HasPrefix(c.begin, "After"):
		return nil, invalid(op, "beginning of a read Backward", c.begin, "From or FromVersion")
	case c.backward && c.begin == "":
		c.from = ^uint64(0) // the newest
	}
	var err error
	c.filter.TypeNames = c.typeNames
	c.filter.Types, err = e.types.set(op, c.typeNames)
	return c, err
}

// chunk is how many events a read takes from the backend at once: their copies stay in
// the L2 cache.
const chunk = 128

var chunks = sync.Pool{New: func() any { return new([chunk]Event) }}

// readStream yields the events of a stream. It returns nil when yield has refused more.
func (e *Engine) readStream(ctx context.Context, name string, c *readConfig, yield func(Event, error) bool) error {
	p := e.pager(ctx, c, yield)
	p.ends = func() (_ uint64, err error) {
		defer recovered(&err, "load")
		s, err := e.backend.Load(ctx, name)
		p.stream = s
		return uint64(s.Version), err
	}
	query := func(to uint64) StreamQuery {
		return StreamQuery{Version(p.next), Version(to), c.backward, c.filter}
	}
	p.read = func(to uint64, dst []Event) (_ int, _ uint64, err error) {
		defer recovered(&err, "read")
		n, next, err := e.backend.ReadStream(ctx, p.stream, query(to), dst)
		return n, uint64(next), err
	}
	p.direct = func(to uint64) (int, uint64, bool, error) {
		n, next, more, err := p.memory.yieldStream(p.stream, query(to), c.limit, p.yield)
		return n, uint64(next), more, err
	}
	return p.run()
}

func (e *Engine) readAll(ctx context.Context, c *readConfig, yield func(Event, error) bool) error {
	p := e.pager(ctx, c, yield)
	p.ends = func() (uint64, error) { return uint64(e.backend.Head()), nil }
	query := func(to uint64) Query { return Query{Position(p.next), Position(to), c.backward, c.filter} }
	p.read = func(to uint64, dst []Event) (_ int, _ uint64, err error) {
		defer recovered(&err, "read")
		n, next, err := e.backend.ReadAll(ctx, query(to), dst)
		return n, uint64(next), err
	}
	p.direct = func(to uint64) (int, uint64, bool, error) {
		n, next, more, err := p.memory.yieldAll(query(to), c.limit, p.yield)
		return n, uint64(next), more, err
	}
	return p.run()
}

// pager reads page after page. It runs in the caller's goroutine.
type pager struct {
	eng    *Engine
	ctx    context.Context
	config *readConfig
	yield  func(Event, error) bool
	stream StreamState
	next   uint64 // where to go on
	ends   func() (uint64, error)
	read   func(to uint64, dst []Event) (n int, next uint64, err error)
	buf    *[chunk]Event // a page
	used   int           // the most events that were in buf

	// memory is the backend if it is a Memory, whose events need no page: direct finds and
	// yields as many as read would find. The type is asked for, not an interface: what embeds
	// a Memory and changes how it reads is another backend.
	memory *Memory
	direct func(to uint64) (n int, next uint64, more bool, err error)
}

func (e *Engine) pager(ctx context.Context, c *readConfig, yield func(Event, error) bool) *pager {
	memory, _ := e.backend.(*Memory)
	return &pager{eng: e, ctx: ctx, config: c, yield: yield, next: c.from, memory: memory}
}

func (p *pager) run() error {
	if p.eng.isClosed() {
		return ErrClosed
	}
	if !p.config.backward {
		p.next = max(p.next, 1)
	}
	if p.memory == nil {
		p.buf = chunks.Get().(*[chunk]Event)
		defer func() {
			clear(p.buf[:p.used])
			chunks.Put(p.buf)
		}()
	}
	if p.config.follow {
		return p.follow()
	}
	if err := p.ctx.Err(); err != nil {
		return context.Cause(p.ctx)
	}
	end, err := p.ends()
	if err != nil {
		return err
	}
	if p.config.backward {
		p.next = min(p.next, end)
		end = 1
	}
	_, err = p.upTo(end)
	return err
}

// upTo yields what is up to end and reports whether more is wanted.
func (p *pager) upTo(end uint64) (more bool, err error) {
	for p.config.backward && p.next >= end || !p.config.backward && p.next <= end {
		if err := p.ctx.Err(); err != nil {
			return false, context.Cause(p.ctx)
		}
		n, next, more, err := p.page(end)
		if err != nil || !more {
			return false, err
		}
		stuck := n == 0 && next == p.next
		p.next = next
		if p.config.limit -= n; p.config.limit == 0 {
			return false, nil
		}
		if stuck {
			break
		}
	}
	return true, nil
}

// page yields the next events up to end, and returns how many, where to go on, and whether more
// are wanted.
func (p *pager) page(end uint64) (n int, next uint64, more bool, err error) {
	if p.memory != nil {
		return p.direct(end)
	}
	dst := p.buf[:min(chunk, p.config.limit)]
	if n, next, err = p.read(end, dst); err != nil {
		p.used = chunk // nobody knows
		return 0, 0, false, err
	}
	p.used = max(p.used, n)
	decode := p.eng.caps.Encoded && !p.config.encoded
	for i := range dst[:n] {
		if decode {
			if err := p.eng.decode(&dst[i], nil); err != nil {
				p.yield(Event{}, err)
				return n, next, false, nil
			}
		}
		if !p.yield(dst[i], nil) {
			return n, next, false, nil
		}
	}
	return n, next, true, nil
}
