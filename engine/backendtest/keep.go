package backendtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/weirstore/weir/engine"
)

var keepCases = []testCase{
	{
		name: "keeps-payloads",
		why:  "what Append accepts, Read returns (NATS f64911416: published records that every later read refused for ever as too large); without its encoding and schema a payload of bytes can never be read again",
		run:  keepsPayloads,
	},
	{
		name: "keeps-ids-and-metadata",
		why:  "an event ID that is lost is an append stored twice, and a lost correlation a trace that ends nowhere",
		run:  keepsMetadata,
	},
	{
		name: "keeps-names",
		why:  "the engine accepts any valid UTF-8 up to 1024 bytes without control characters: a subject, a file name or a collation may not",
		run:  keepsNames,
	},
	{
		name: "reads-do-not-share-memory",
		why:  "an event that was read stays as it was when the next is read into the same place (raft-wal 1cab18f: shared read buffer)",
		run:  readsDoNotShareMemory,
	},
}

func keepsPayloads(s *suite) {
	st := s.store()
	for range 10 {
		st.add("a-1", "A")
	}
	if s.standard {
		for _, data := range []any{
			"", []byte{}, "naïve café 🦫 日本語", "line\nline\x00 and zero", everyByte(), string(everyByte()),
			json.RawMessage(`{"b": 1, "a": [true, null]}`),
			strings.Repeat("long ", 200_000), bytes.Repeat([]byte{0xff}, 5<<20),
		} {
			w := st.write("b-1", "B")
			w.Events[0].Data = data
			if s.caps.Encoded {
				w.Events[0].Data = encoded(data)
			}
			st.commit(w)
		}
	}
	if s.caps.Encoded {
		for _, p := range []*engine.Payload{
			{Encoding: "cbor", Schema: 7, Bytes: everyByte()},
			{Encoding: "a codec's name of 32 bytes, all ~", Schema: math.MaxUint16, Bytes: []byte{0}},
			{Encoding: "x", Schema: 256},
			{Encoding: engine.EncodingText, Schema: 2, Bytes: []byte("text")},
			{Encoding: engine.EncodingBytes, Schema: 2, Bytes: []byte("text")},
		} {
			w := st.write("b-1", "B")
			w.Events[0].Data = p
			st.commit(w)
		}
	}
	st.check()
}

func everyByte() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func keepsMetadata(s *suite) {
	st := s.store()
	long := strings.Repeat("lång ", engine.MaxName/6)
	for i, rec := range []engine.Record{
		{},
		{ID: "id-1"},
		{ID: long},
		{ID: "naïve ID 🦫 'quoted\" \\ % _"},
		{Meta: engine.Metadata{CorrelationID: "correlation"}},
		{Meta: engine.Metadata{CausationID: "causation"}},
		{Meta: engine.Metadata{CorrelationID: long, CausationID: long}},
		{Meta: engine.Metadata{Extra: map[string]string{"tenant": "7"}}},
		{Meta: engine.Metadata{Extra: map[string]string{"": "", "empty": "", "naïve 🦫": "日本語", "a.b": "c\nd", "long": long, "CorrelationID": "not that one"}}},
		{ID: "id-2", Meta: engine.Metadata{CorrelationID: "b", CausationID: "c", Extra: map[string]string{"d": "e", "f": "g"}}},
		{}, // nothing of the one before
	} {
		w := st.write("a-1", "A")
		rec.Type, rec.TypeID, rec.Data = w.Events[0].Type, w.Events[0].TypeID, w.Events[0].Data
		w.Events[0] = rec
		st.commit(w)
		if i%2 == 0 {
			st.add("a-2", "A")
		}
	}
	st.check()
}

// nasty are names that are different, valid, and treacherous for one kind of store or
// another: for paths, subjects, wildcards, quoting, collation, normal forms, trimming, encoding.
var nasty = []string{
	"a", "A", "a ", " a", "a  ", "ä", "a\u0308", "Ä", "a-", "-a", "-", "--", "a-1", "a-1-2", "a_1", "a%1", "a%", "%", "_",
	".", "..", "../a", "/", "/a", "a/1", "a//1", "a\\1", "~", "*", ">", "a.*", "a.>", "a.1", "$SYS.a", "a:1", "a;1", "a,1", "a=1",
	"'", "''", "a'; drop table events; --", "\"", "`", "$1", "?", "a?1", "#", "a#1", "%00", "%2F", "\\x00", "NULL", "null", "0", "00", "-1",
	"1e3", "con", "nul.txt", "日本語", "日本", "🦫", "\u200b", "a\u200b", "\ufeffa", "\u202ea", "ﬀ", "ff", "ß", "ss", "İ", "i", "ı", "I", "\U0010ffff", "\ufffd",
}

func keepsNames(s *suite) {
	st := s.store()
	names := append([]string{
		strings.Repeat("x", engine.MaxName),
		strings.Repeat("x", engine.MaxName-1) + "y", // differs in the last byte only
		strings.Repeat("x", engine.MaxName-1),
		strings.Repeat("🦫", engine.MaxName/4),
	}, nasty...)
	// In one step each, so that the names meet in indexes of all kinds.
	var writes []*engine.Write
	for _, name := range names {
		w := st.write(name, name)
		w.Events[0].ID = name
		writes = append(writes, w)
	}
	st.commit(writes...)
	for _, name := range names {
		st.add(name, "plain")
	}
	st.check()
	for i, name := range names {
		st.checkFind(name, name, 1)
		st.checkFind(name, names[(i+1)%len(names)], 0)
		st.checkRead(st.all(), span{from: 1, to: uint64(len(st.log)), filter: st.filter([]string{name}, nil)}, 1000)
	}
	for i, name := range names {
		if err := save(s.Context(), st.b, name, engine.Position(i+1)); err != nil {
			s.Fatalf("SaveCheckpoint(%q): %v", short(name), err)
		}
	}
	for i, name := range names {
		st.checkCheckpoint(name, engine.Position(i+1))
	}
}

func readsDoNotShareMemory(s *suite) {
	st := s.store()
	for i := range 20 {
		w := st.write("a-1", "A")
		w.Events[0].Meta.Extra = map[string]string{"n": fmt.Sprint(i)}
		st.commit(w)
	}
	for _, src := range []source{st.all(), st.one("a-1")} {
		var kept []engine.Event
		dst := make([]engine.Event, 1)
		for p := uint64(1); p <= 20; p++ {
			if n, _, err := src.read(span{from: p, to: p}, dst); n != 1 || err != nil {
				s.Fatalf("%s of the one event at %d returns %d, %v", src.name, p, n, err)
			}
			kept = append(kept, dst[0])
		}
		for i := range kept {
			if diff := difference(&kept[i], &src.log[i]); diff != "" {
				s.Fatalf("%s: the event read at %d has changed since: %s", src.name, i+1, diff)
			}
		}
	}
}
