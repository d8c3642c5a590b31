// Package filestore keeps an engine's events in files: a segmented log of its own, with
// nothing but the standard library.
//
//	store, err := filestore.Open("data", filestore.Options{})
//	if err != nil { … }
//	eng, err := engine.Open(engine.Options{Backend: store}) // eng.Close closes the store
//
// Payloads are stored as bytes. A process that reads what another has stored has to know the Go types
// first: see [engine.Register]. If engine.Open fails, the store is still open.
//
// A store is one directory that one process has open. The log is a list of segments, files
// of a fixed size that are filled with zeros before they are used, or given room that reads as zeros where
// there are more than 128 KiB to a sync; appending is the only way in which one changes. Everything else in the directory is small, or can be made anew from the log.
//
// # What is promised
//
//   - An append that was acknowledged as [engine.Synced], the default, is on the disk: written, and
//     synced with fdatasync. One acknowledged as [engine.Written] was handed to the operating system; it
//     survives the death of the process, and a power cut from Options.SyncEvery later on.
//   - An append is there whole or not at all, after any crash. Positions and versions have no gaps.
//   - Damage is an error, never silence. What a crash can explain, a torn end of which nothing was
//     acknowledged, Open cuts, copies aside, and reports ([Recovery]). What it cannot explain is a
//     [*CorruptionError], and nothing is changed.
//   - After a write of the log that failed, or a sync of it or the directory, nothing more is written ([ErrPoisoned]):
//     what is on disk is then known to nobody, and a later sync that succeeds would prove nothing. Reading goes on. Open finds out.
//   - A full disk is an error ([ErrFull]) of the appends and compactions that find it full, and ends nothing, unless it is a
//     sync that fails for it. Saving checkpoints, closing, and opening what was closed need room for a small file.
//
// There is one thing that no log can know: after a crash, whether the end of the log was torn by
// the crash or damaged later. Each batch vouches for those before it, so only damage that reaches to the very
// end can be taken for a tear: of the last batch, or of a few if they stand in the bytes that are damaged.
// Open cuts it, keeps it, and says so. A store that was closed has no such doubt.
//
// It relies on this: fsync and fdatasync do what they say; a write does not change bytes
// outside its range; the file system is local. It does not rely on sectors being written
// whole, or writes in order.
//
// # The files
//
//	manifest                       which segments there are, and where the log ends if it was closed
//	handlers                       checkpoints and parked events
//	snapshots                      folded states; may be missing, and is never relied on
//	00000000000000000001.seg       a segment; the number is the position of its first event
//	00000000000000000001-2.seg     the same after its second compaction
//	00000000000000000001.idx       its index; may be missing
//	lock                           who has the store open
//	damaged-…                      what Open or Repair has cut
//	….tmp                          being made; Open removes those that a crash has left
//
// All numbers are little-endian. Checksums are CRC-32C (Castagnoli). docs/filestore-format.md has
// the long form: every file, recovery step by step, and every sync.
//
// A segment begins with a header of 64 bytes:
//
//	 0  8  magic "WEIRSEG\n"
//	 8  4  format version: 1
//	12  4  length of the header: 64
//	16 16  store ID: random, one for each store
//	32  8  base: the position of the first event
//	40  8  size of the file in bytes
//	48  8  the position that follows the last event, if the segment was compacted; else 0
//	56  4  generation: how often it was compacted
//	60  4  checksum of bytes 0 to 59
//
// Records follow without gaps, and zeros behind them. A record is
//
//	 0  4  checksum of bytes 4 to the end. Its seed is the checksum of store ID and base,
//	       so that a record of another store or segment is none
//	 4  4  length of the record in bytes, this header of 44 included
//	 8  8  position; for a control record that of the last event before it
//	16  8  version in the stream; for a control record its argument
//	24  8  time, Unix nanoseconds
//	32  4  durable watermark: what lies more than so many bytes before this record was on disk
//	       when it was written. Damage there was not done by a crash
//	36  1  bits 0-2 kind: 0 event, 1 truncate, 2 delete, 3 close; bit 4 named encoding,
//	       bit 5 metadata, bit 6 event ID, bit 7 last record of its batch
//	37  1  encoding: 0 bytes, 1 text, 2 json, 255 by name
//	38  2  schema version of the event type
//	40  2  length of the stream name
//	42  2  length of the type name
//	44     stream name, type name;
//	       with an event ID: 2 its length, the ID;
//	       with a named encoding: 1 its length, the name;
//	       with metadata: 4 its length, the metadata (varints and strings);
//	       the payload, up to the end
//
// So an event takes 44 bytes beyond its names and payload, 46 with an ID. A batch, the
// events of one Commit, never crosses a segment; what lacks its last record is no batch. Control records
// take no position: truncate and delete are what [engine.Retention] asks for, close ends a session.
//
// The manifest and the handlers' file are a header of 40 bytes, with magic, version, checksum, store
// ID and length, and a body of JSON. They are replaced as a whole: written under another name, synced,
// renamed, and the directory synced. An index file lists the segment's records without their payloads;
// docs/filestore-format.md has its form.
//
// # Where it is synced
//
// Commit: fdatasync of the segment, once for all that wait. A new segment: fsync of the file when it
// has its zeros and again with its header, fsync of the directory, then the manifest (fsync of
// file and directory), and only then is it used. SaveCheckpoints: fdatasync of the segment if anything is not
// synced, then the handlers' file (fsync of file and directory). SaveSnapshot: fdatasync of the segment if
// its events are not synced; the snapshot itself is not. Open: if the store was not closed, the end
// of the log that no record vouches for is written once more, for a sync of it may have failed, and
// so are the zeros where it was ever cut, and the handlers' file (fsync of file and directory);
// then fdatasync of the segment, and the manifest anew (fsync of file and directory).
//
// A name is relied upon only if the directory was synced behind it, and no sync of the directory has failed since the
// store was opened. What an Open finds in the directory it writes anew before it builds upon it, but for segments, whose
// names are durable before a manifest names them.
//
// # Cost
//
// In memory about 10 bytes an event (9.4 were measured at 10M events of 1,000 streams), 10 more if it
// has an ID, about 3 a tag, about 170 a stream (counted from the layout), and the tail and cache of [Options]. docs/bench has
// what was measured: 64 appenders come to 0.87 of the rate of a plain file that is written and synced in
// groups of the same size, and 10M events open in a second.
package filestore
