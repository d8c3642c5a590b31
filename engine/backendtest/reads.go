package backendtest

import (
	"fmt"

	"github.com/weirstore/weir/engine"
)

var readCases = []testCase{
	{
		name: "read-all-every-range",
		why:  "pages meet at every place there is: an event lost or given twice where two meet is lost or handled twice (YoEight/eventstore #62, KurrentDB #2367)",
		run:  readAllEveryRange,
	},
	{
		name: "read-stream-every-range",
		why:  "a stream is read in pages too, from any version to any other",
		run:  readStreamEveryRange,
	},
	{
		name: "read-categories",
		why:  "a category is all before the first \"-\", and nothing else: not a prefix, not a pattern",
		run:  readCategories,
	},
	{
		name: "read-past-head",
		why:  "who reads on from next must not have jumped over what comes later (commanded #327: a subscription skipped 40 million events in production)",
		run:  readPastHead,
	},
}

// shelf is a small store that has some of everything.
func (s *suite) shelf() *store {
	st := s.store()
	st.add("account-1", "Opened", "Paid", "Paid")
	st.add("order-1", "Opened")
	st.commit(st.write("account-2", "Opened"), st.write("account-1", "Paid", "Closed"))
	st.add("order-1", "Paid", "Closed")
	st.add("account-1", "Opened", "Paid")
	return st
}

func (st *store) filters() []engine.Filter {
	return []engine.Filter{
		{},
		st.filter([]string{"Opened"}, nil),
		st.filter([]string{"Closed", "Opened"}, nil),
		st.filter([]string{"Never"}, nil),
		st.filter(nil, []string{"order"}),
		st.filter([]string{"Paid"}, []string{"account", "nobody"}),
	}
}

// everyRange reads from every place to every place, in pages of every size.
func (st *store) everyRange(src source, filters []engine.Filter) {
	n := uint64(len(src.log))
	sizes := []int{1, 2, 3, 5, int(n), int(n) + 4}
	for i, f := range filters {
		for from := uint64(1); from <= n+2; from++ {
			for to := uint64(1); to <= n+2; to++ {
				for k, size := range sizes {
					if i > 0 && k%2 == 1 {
						continue // half will do for the other filters: each call may cost a round trip
					}
					st.checkRead(src, span{from: from, to: to, filter: f}, size)
					st.checkRead(src, span{from: from, to: to, backward: true, filter: f}, size)
				}
			}
		}
		last := ^uint64(0)
		st.checkRead(src, span{from: 1, to: last, filter: f}, 3)
		st.checkRead(src, span{from: last, to: 1, backward: true, filter: f}, 3)
	}
}

func readAllEveryRange(s *suite) {
	st := s.shelf()
	st.everyRange(st.all(), st.filters())
}

func readStreamEveryRange(s *suite) {
	st := s.shelf()
	st.everyRange(st.one("account-1"), st.filters()[:4])
	st.everyRange(st.one("account-2"), st.filters()[:2])
}

func readCategories(s *suite) {
	st := s.store()
	streams := []string{
		"account-1", "account-2-x", "account", "account--1", "accounts-1", "acc-1", "Account-1", "account_1", "accountX1",
		"a_c-1", "a%-1", "abc-1", "-1", "-", "日本-1", "日本語-1", "account 1-1",
	}
	for _, stream := range streams {
		st.add(stream, "A", "B")
	}
	categories := []string{"account", "accounts", "acc", "Account", "a_c", "a%", "%", "", "日本", "account-2", "nobody", "*", "account 1"}
	end := uint64(len(st.log))
	for _, category := range categories {
		for _, types := range [][]string{nil, {"B"}} {
			f := st.filter(types, []string{category})
			st.checkRead(st.all(), span{from: 1, to: end, filter: f}, 3)
			st.checkRead(st.all(), span{from: end, to: 1, backward: true, filter: f}, 3)
		}
	}
	f := st.filter([]string{"A"}, categories[:4])
	st.checkRead(st.all(), span{from: 1, to: end, filter: f}, 100)
}

// readPastHead follows the log as the engine does: it asks for more than there is, and
// goes on from next when there is more.
func readPastHead(s *suite) {
	st := s.store()
	all, stream := uint64(1), uint64(1)
	rare, rarely := uint64(1), st.filter([]string{"Rare"}, nil)
	for i := range 30 {
		st.add(fmt.Sprintf("a-%d", i%2), "Frequent")
		if i%5 == 4 {
			st.add("a-0", "Rare", "Frequent")
		}
		all = st.follow(st.all(), span{from: all, to: ^uint64(0)})
		rare = st.follow(st.all(), span{from: rare, to: ^uint64(0), filter: rarely})
		stream = st.follow(st.one("a-0"), span{from: stream, to: ^uint64(0)})
	}
}

// follow checks one read that goes on from where the last one has ended, and returns
// where the next is to go on.
func (st *store) follow(src source, q span) uint64 {
	st.Helper()
	st.checkRead(src, q, 4) // that every page ends at or before head+1
	for dst := make([]engine.Event, 4); ; {
		_, next, err := src.read(q, dst)
		if err != nil {
			st.Fatalf("%s: %v", src.name, err)
		}
		if next == q.from {
			if want := uint64(len(src.log)) + 1; next != want {
				st.Fatalf("%s has read all that is there and says to go on from %d, want %d", src.name, next, want)
			}
			return next
		}
		q.from = next
	}
}
