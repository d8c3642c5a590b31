package engine_test

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/weirstore/weir/engine"
)

// storedBefore stands for a store on disk that an older program has written to.
func storedBefore(stream, eventType, text string) engine.Backend {
	b := newEncoded()
	id := must(b.TypeID(eventType))
	err := b.Memory.Commit(context.Background(), []*engine.Write{{
		Stream: &engine.StreamState{Name: stream},
		Events: []engine.Record{{Type: eventType, TypeID: id, Data: &engine.Payload{Encoding: engine.EncodingJSON, Schema: 1, Bytes: []byte(text)}}},
	}})
	return must(b, err)
}

// CustomerRenamed had one field Name, at first.
type CustomerRenamed struct{ FirstName, LastName string }

func ExampleUpcast() {
	eng := must(engine.Open(engine.Options{Backend: storedBefore("customer-1", "CustomerRenamed", `{"Name":"John Smith"}`)}))
	defer eng.Close()
	ctx := context.Background()

	type v1 struct{ Name string }
	err := engine.Upcast(eng, "CustomerRenamed", 1, func(old v1) (CustomerRenamed, error) {
		first, last, ok := strings.Cut(old.Name, " ")
		if !ok {
			return CustomerRenamed{}, fmt.Errorf("no last name in %q", old.Name)
		}
		return CustomerRenamed{first, last}, nil
	})
	must("", err)

	must(eng.Append(ctx, "customer-1", engine.Exactly(1), engine.New(CustomerRenamed{"Jane", "Smith"})))
	for ev, err := range eng.Read(ctx, "customer-1") {
		fmt.Printf("%d %+v %v\n", ev.Version, ev.Data, err)
	}
	// What is stored has not changed.
	for ev, err := range eng.Read(ctx, "customer-1", engine.Encoded()) {
		p := ev.Data.(*engine.Payload)
		fmt.Printf("%d schema %d %s %v\n", ev.Version, p.Schema, p.Bytes, err)
	}
	// Output:
	// 1 {FirstName:John LastName:Smith} <nil>
	// 2 {FirstName:Jane LastName:Smith} <nil>
	// 1 schema 1 {"Name":"John Smith"} <nil>
	// 2 schema 2 {"FirstName":"Jane","LastName":"Smith"} <nil>
}

// smallJSON is a codec: JSON, compressed.
type smallJSON struct{}

func (smallJSON) Name() string { return "json+flate" }

func (smallJSON) Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

func (smallJSON) Unmarshal(data []byte, v any) error {
	text, err := io.ReadAll(flate.NewReader(bytes.NewReader(data)))
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

type Noted struct{ Text string }

func ExampleCodec() {
	// What was stored as JSON before is still read.
	eng := must(engine.Open(engine.Options{
		Backend: storedBefore("note-1", "Noted", `{"Text":"as JSON"}`),
		Codec:   smallJSON{},
	}))
	defer eng.Close()
	ctx := context.Background()

	must(eng.Append(ctx, "note-1", engine.Exactly(1), engine.New(Noted{strings.Repeat("again and ", 100)})))
	for ev, err := range eng.Read(ctx, "note-1") {
		fmt.Println(ev.Version, len(ev.Data.(Noted).Text), "characters", err)
	}
	for ev, err := range eng.Read(ctx, "note-1", engine.Encoded()) {
		p := ev.Data.(*engine.Payload)
		fmt.Println(ev.Version, p.Encoding, len(p.Bytes) < 100, err)
	}
	// Output:
	// 1 7 characters <nil>
	// 2 1000 characters <nil>
	// 1 json true <nil>
	// 2 json+flate true <nil>
}

func ExampleWithDurability() {
	eng := start() // in memory
	defer eng.Close()

	ctx := engine.WithDurability(context.Background(), engine.Synced)
	_, err := eng.Append(ctx, "account-7", engine.Any, engine.New(Deposited{100}))
	fmt.Println(err)

	res := must(eng.Append(context.Background(), "account-7", engine.Any, engine.New(Deposited{100})))
	fmt.Println(res.Durability)
	// Output:
	// engine: append "account-7": durability is synced, want volatile, with backend "memory"
	// volatile
}
