// Package crashfs is a directory in memory that behaves as a real disk does when the
// power is cut, a process is killed, or a call fails. It is the judge of the file backend: a
// run over a [Disk] leaves a journal of every operation, and out of ONE run come as many
// crashes as one likes, at every operation and with many outcomes each:
//
//	disk := crashfs.New()
//	run(disk) // the store works; at each acknowledgement: disk.Mark(event)
//	for at := range disk.Crashes() {
//		for range 50 {
//			survivor := at.PowerCut(rng) // a disk at rest
//			check(survivor, at.Marks())  // open it: is all that was acknowledged there?
//		}
//	}
//
// There are three types. A [Disk] is a [vfs.FS] with its journal. A [Cursor] is a moment of
// a run; Disk.Crashes and Disk.Replay give them. An [Op] says what a call was, to the
// functions that let calls fail.
//
// # What is sure after a power cut
//
//   - The content and size that a file had when Sync or Datasync last returned nil, as far as
//     nothing was written there since.
//   - The names as they were when SyncDir last returned nil, as far as nothing happened to them
//     since. Syncing a file does not make its name durable.
//
// # What is left to chance
//
//   - Each 512-byte sector of each write that was not synced: any of the contents it went
//     through may be there, in whatever order the writes were. Sectors are not atomic: one
//     can hold a prefix of the new bytes and then the old ones. But an overwrite with the same
//     bytes is harmless ("powersafe overwrite"), so what was synced does not suffer from a
//     later write to the rest of its sector.
//   - Each change of size, in the order they were made. An appending write may have got part
//     of the way. Where the size is there and the content is not, a file reads zeros: never
//     garbage, never what another file held.
//   - Each Create, Rename and Remove that was not synced, independently of the others. A rename
//     is atomic: the file has its old name or its new one, and never neither.
//   - The operation that was under way: a WriteAt is torn at any byte.
//
// Each crash draws how likely things are to survive, separately for data, sizes and names,
// and sometimes for each file: nothing, 5 %, half, 95 %, all. The extremes find most bugs.
//
// After [Cursor.Kill], the death of the process alone, everything written is there, but it is
// no more durable than before: a power cut of the survivor still takes it. So a store that
// trusts what it reads when it opens, and acknowledges on the strength of it without a Sync, is found out.
//
// # Failed calls
//
// [Disk.Fail], [Disk.FailNth], [Disk.FailRead] and [Disk.Capacity] make calls fail. A failed
// Sync is that of Linux: what was to be written is forgotten, reads still see it, and later
// syncs return nil without making it durable, unless it is written again.
//
// # Not modelled
//
// Damage of what is at rest is not chance but a call: [Disk.FlipBit] and its like. Not here at
// all: disks that lie about a sync, directories in directories, file modes, hard and
// symbolic links, errors of Close, mapped memory, pages evicted after a failed Sync (reads then return
// the old content), and a drive that damages sectors which were not being written.
//
// # Cost
//
// Pages are shared between disks until they are written, and zeros take no memory. A power
// cut of a log of 300 operations takes 11 µs and 9 kB (BenchmarkPowerCut, AMD EPYC, 2 shared
// cores, November 2026): 20,000 of them 0.2 s, and the opening of what they leave the rest.
// The journal keeps all that was written until [Disk.Forget].
package crashfs
