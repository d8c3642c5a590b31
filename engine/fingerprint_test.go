package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/quick"
	"time"
	"unsafe"

	"github.com/weirstore/weir/engine"
)

// odd has every kind of value.
type odd struct {
	Bool    bool
	Int     int8
	Uint    uintptr
	Float   float64
	Complex complex64
	Text    string
	Raw     []byte
	Array   [3]*odd
	Slice   []odd
	Any     any
	Err     error
	Map     map[string]*odd
	ByFloat map[float64]int
	ByAny   map[any][]int
	Func    func()
	Chan    chan int
	Unsafe  unsafe.Pointer
	Next    *odd
	Time    time.Time
	Zone    *time.Location
	Type    reflect.Type
	Value   reflect.Value
	Big     *big.Int
	Buffer  *bytes.Buffer
	Cached  *cached
	Empty   *struct{}
	hidden  map[int]*[]string
}

// cached may be changed while others read it: it looks after itself.
type cached struct {
	name string
	once sync.Once
	long string
	uses atomic.Int64
}

func (c *cached) Long() string {
	c.once.Do(func() { c.long = "long " + c.name })
	c.uses.Add(1)
	return c.long
}

// newOdd returns a random value. Depth bounds it, all are values to point back to.
func newOdd(r *rand.Rand, depth int, all *[]*odd) *odd {
	o := &odd{}
	*all = append(*all, o)
	child := func() *odd {
		if depth == 0 || r.IntN(4) == 0 {
			return (*all)[r.IntN(len(*all))] // makes circles
		}
		return newOdd(r, depth-1, all)
	}
	some := func(fn func()) {
		if r.IntN(3) == 0 {
			fn()
		}
	}
	o.Bool, o.Int, o.Uint, o.Float = r.IntN(2) == 0, int8(r.Int()), uintptr(r.Uint64()), r.NormFloat64()
	o.Text, o.Complex = fmt.Sprint(r.Int()), complex(float32(r.NormFloat64()), float32(math.NaN()))
	some(func() { o.Float = math.NaN() })
	some(func() { o.Raw = make([]byte, r.IntN(300)) })
	some(func() { o.Array[r.IntN(3)] = child() })
	some(func() { o.Slice = []odd{*child(), {}} })
	some(func() {
		o.Any = []any{nil, child(), *child(), 7, "text", []any{1, nil}, func() {}, o, &o, [0]int{}, struct{}{}}[r.IntN(11)]
	})
	some(func() { o.Err = errors.New("an error") })
	some(func() {
		o.Map = map[string]*odd{"": nil}
		for i := range r.IntN(20) {
			o.Map[fmt.Sprint(i)] = child()
		}
	})
	some(func() { o.ByFloat = map[float64]int{math.NaN(): 1, math.Inf(1): 2, 0: 3}; o.ByFloat[math.NaN()] = 4 })
	some(func() {
		o.ByAny = map[any][]int{1: {1}, "1": {2, 3}, o: nil, [2]any{1, nil}: {4}, struct{ A, b any }{o, 1}: {}, math.NaN(): {5}}
		o.ByAny[math.NaN()] = []int{6}
	})
	some(func() { o.Func, o.Chan, o.Unsafe = func() { _ = o }, make(chan int, 1), unsafe.Pointer(o) })
	some(func() { o.Next = child() })
	some(func() { o.Time, o.Zone = time.Now(), time.Local })
	some(func() { o.Type, o.Value = reflect.TypeFor[odd](), reflect.ValueOf(o) })
	some(func() { o.Big, o.Buffer = big.NewInt(r.Int64()), bytes.NewBufferString("text") })
	some(func() { o.Cached, o.Empty = &cached{name: "n"}, &struct{}{} })
	some(func() { o.hidden = map[int]*[]string{1: {"a"}, 2: nil} })
	return o
}

// TestFingerprintOfWhatNobodyChanges: it is the same again, for whatever value, also for one that has more
// in it than is looked at, and while others look at it and use what may be used.
func TestFingerprintOfWhatNobodyChanges(t *testing.T) {
	values := []any{1, "text", nil, []byte(nil), (*odd)(nil), map[string]int{}, &[]any{nil}, new(any), big.NewFloat(1.5), time.Now(), t,
		reflect.TypeFor[int](), errors.New("x"), func() {}, make(chan int), engine.Event{Data: 1}, [2][]int{}, &sync.Map{}, new(atomic.Pointer[odd])}
	wide := make(map[int]map[int]*int)
	for i := range 300 { // 90,000 entries: the walk ends in the middle of some map
		wide[i] = make(map[int]*int)
		for j := range i {
			wide[i][j] = new(int)
		}
	}
	long := make(map[string][]byte)
	for i := range 50 { // the bytes end in the middle
		long[fmt.Sprintf("%0*d", 10_000, i)] = make([]byte, 60_000)
	}
	var list *odd
	for range 2 * engine.MaxFingerprintValues {
		list = &odd{Next: list}
	}
	one, two := new(int), new(int) // which of them is met first is chance
	values = append(values, []any{map[any]*int{math.NaN(): one, any(math.NaN()): two}, one, two})
	values = append(values, wide, long, list, make([]any, 100_000), make([]byte, 3<<20))
	check := func(v any) bool {
		ev := engine.Event{Data: v, Meta: engine.Metadata{Extra: map[string]string{"a": "b", "c": ""}}}
		var wg sync.WaitGroup
		var bad atomic.Int64
		for range 3 {
			wg.Go(func() {
				if o, ok := v.(*odd); ok && o != nil && o.Cached != nil {
					o.Cached.Long()
				}
				before := engine.FingerprintOf(ev)
				if path, same := before.Compare(ev); !same {
					t.Errorf("%T has changed at %s, says the fingerprint", v, path)
					bad.Add(1)
				}
			})
		}
		wg.Wait()
		return bad.Load() == 0
	}
	for _, v := range values {
		for range 3 {
			check(v)
		}
	}
	random := func(seed uint64) bool {
		var all []*odd
		return check(newOdd(rand.New(rand.NewPCG(seed, 1)), 4, &all))
	}
	if err := quick.Check(random, &quick.Config{MaxCount: 300}); err != nil {
		t.Error(err)
	}
	// testing/quick's own values.
	own := func(a map[string][]int16, b [3]struct {
		P *float64
		Q map[complex128][]string
	}, c []map[rune]bool) bool {
		return check(a) && check(&b) && check(c)
	}
	if err := quick.Check(own, nil); err != nil {
		t.Error(err)
	}
}

// TestFingerprintFindsChanges: of each kind, with its place, and without a word of what is there.
func TestFingerprintFindsChanges(t *testing.T) {
	for path, change := range map[string]func(o *odd){
		"Data.Bool":               func(o *odd) { o.Bool = true },
		"Data.Int":                func(o *odd) { o.Int-- },
		"Data.Uint":               func(o *odd) { o.Uint++ },
		"Data.Float":              func(o *odd) { o.Float = math.NaN() },
		"Data.Complex":            func(o *odd) { o.Complex = 1i },
		"Data.Text":               func(o *odd) { o.Text = "secret" },
		"Data.Raw[0]":             func(o *odd) { o.Raw[0]++ },
		"Data.Array[1].Text":      func(o *odd) { o.Array[1].Text = "secret" },
		"Data.Array[2]":           func(o *odd) { o.Array[2] = &odd{} },
		"Data.Slice[1].Next.Int":  func(o *odd) { o.Slice[1].Next.Int = 7 },
		"Data.Slice":              func(o *odd) { o.Slice = append(o.Slice, odd{}) },
		"Data.Any":                func(o *odd) { o.Any = "1" },
		"Data.Err":                func(o *odd) { o.Err = nil },
		"Data.Map[…].Int":         func(o *odd) { o.Map["secret"].Int++ },
		"Data.Map":                func(o *odd) { delete(o.Map, "secret") },
		"Data.Map[…]":             func(o *odd) { delete(o.Map, "secret"); o.Map["other"] = nil },
		"Data.ByFloat":            func(o *odd) { o.ByFloat[math.NaN()] = 1 },
		"Data.ByAny[…][1]":        func(o *odd) { o.ByAny["secret"][1]++ },
		"Data.Func":               func(o *odd) { o.Func = func() { _ = o } },
		"Data.Chan":               func(o *odd) { o.Chan = make(chan int) },
		"Data.Unsafe":             func(o *odd) { o.Unsafe = unsafe.Pointer(o) },
		"Data.Time.wall":          func(o *odd) { o.Time = time.Unix(1, 5) },
		"Data.Zone":               func(o *odd) { o.Zone = time.FixedZone("z", 1) },
		"Data.Big.abs[0]":         func(o *odd) { o.Big.SetInt64(8) },
		"Data.Buffer.off":         func(o *odd) { o.Buffer.Next(1) },
		"Data.Cached":             func(o *odd) { o.Cached = &cached{} },
		"Data.hidden[…][0]":       func(o *odd) { (*o.hidden[1])[0] = "secret" },
		"Data.Next.Next.Next.Int": func(o *odd) { o.Next.Next.Next.Int++ },
	} {
		t.Run(path, func(t *testing.T) {
			end := &odd{}
			o := &odd{
				Raw: []byte("secret"), Array: [3]*odd{nil, {}, nil}, Slice: []odd{{}, {Next: &odd{}}}, Any: 1, Err: errors.New("x"),
				Map: map[string]*odd{"secret": {}, "b": {}}, ByFloat: map[float64]int{1: 1}, ByAny: map[any][]int{"secret": {1, 2}, 2: nil},
				Next: &odd{Next: &odd{Next: end}}, Big: big.NewInt(7), Buffer: bytes.NewBufferString("text"), Cached: &cached{},
				hidden: map[int]*[]string{1: {"a"}},
			}
			end.Next = o
			ev := engine.Event{Data: o}
			before := engine.FingerprintOf(ev)
			change(o)
			if got, same := before.Compare(ev); same || got != path {
				t.Errorf("changed at %q, same is %v, want %q", got, same, path)
			}
		})
	}
	t.Run("a long []byte", func(t *testing.T) {
		b := make([]byte, 3000)
		ev := engine.Event{Data: b}
		before := engine.FingerprintOf(ev)
		b[2777]++
		if got, same := before.Compare(ev); same || got != "Data[2048]" {
			t.Errorf("changed at %q, same is %v, want the block of 1 KiB at 2048", got, same)
		}
	})
	t.Run("extra", func(t *testing.T) {
		ev := engine.Event{Data: 1, Meta: engine.Metadata{Extra: map[string]string{"a": "b"}}}
		before := engine.FingerprintOf(ev)
		ev.Meta.Extra["a"] = "c"
		if got, same := before.Compare(ev); same || got != "Meta.Extra[…]" {
			t.Errorf("changed at %q, same is %v", got, same)
		}
	})
}

// TestFingerprintBounds: what lies behind the bounds is not looked at, what lies before them is.
func TestFingerprintBounds(t *testing.T) {
	big := make([]int, 2*engine.MaxFingerprintValues)
	bytes := make([]byte, 2*engine.MaxFingerprintBytes)
	for _, c := range []struct {
		name   string
		data   any
		change func()
		found  bool
	}{
		{"the last value within", big, func() { big[engine.MaxFingerprintValues-2]++ }, true},
		{"the first value behind", big, func() { big[engine.MaxFingerprintValues-1]++ }, false},
		{"the last byte within", bytes, func() { bytes[engine.MaxFingerprintBytes-1]++ }, true},
		{"the first byte behind", bytes, func() { bytes[engine.MaxFingerprintBytes]++ }, false},
	} {
		ev := engine.Event{Data: c.data}
		before := engine.FingerprintOf(ev)
		c.change()
		if path, same := before.Compare(ev); same == c.found {
			t.Errorf("%s: same is %v (%s)", c.name, same, path)
		}
	}
}

// TestMutable: what a handler gets a copy of cannot be changed, and is not walked.
func TestMutable(t *testing.T) {
	for _, v := range []any{1, "text", payload{1, 2}, [2]string{}, time.Duration(1), struct {
		F func()
		C chan int
	}{}, &sync.Mutex{}, &cached{}, time.Local, [0]*int{}} {
		if engine.Mutable(engine.Event{Data: v}) {
			t.Errorf("%T is looked at", v)
		}
	}
	for _, v := range []any{new(int), []byte{}, map[int]int{}, struct{ a any }{}, [1][]int{}, &struct{ _ [0]sync.Mutex }{}} {
		if !engine.Mutable(engine.Event{Data: v}) {
			t.Errorf("%T is not looked at", v)
		}
	}
	if !engine.Mutable(engine.Event{Data: 1, Meta: engine.Metadata{Extra: map[string]string{"a": "b"}}}) {
		t.Error("Extra is not looked at")
	}
}
