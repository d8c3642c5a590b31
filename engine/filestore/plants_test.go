package filestore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// plant is a bug that the tests must find: text of a source file in whose place another is
// compiled. `make plants` tries them, one by one.
type plant struct {
	name     string // what is wrong, as in docs/planted-bugs.md
	file     string
	old, new string
	tests    string // those that must find it, as for go test -run
}

// plants are bugs that others have had (reliability notes, by number in docs/planted-bugs.md),
// or that are easily made here. They are in the order of the way of an event: written, synced, a new segment, found
// again, read, removed.
var plants = []plant{
	{"acknowledged before it is synced", "writer.go",
		"if err := s.syncLog(w.active, w.pos, at+int64(len(w.out))); err != nil {\n\t\treturn 0, err", "if err := error(nil); err != nil {\n\t\treturn 0, err",
		"TestPowerCuts"},
	{"what was only written is never synced", "writer.go", "if reached != engine.Synced {", "if false {", "TestDurability"},
	{"a failed write is taken for one that worked", "writer.go",
		"if _, err := w.active.file.WriteAt(w.out, at); err != nil {", "if _, err := w.active.file.WriteAt(w.out, at); err != nil && false {", "TestFaults"},
	{"a failed sync is ignored", "writer.go",
		"if err := active.file.Datasync(); err != nil {", "if err := active.file.Datasync(); err != nil && false {", "TestFailedSync"},
	{"a failed sync is tried again", "writer.go",
		"if err := active.file.Datasync(); err != nil {", "err := active.file.Datasync()\n\tif err != nil {\n\t\terr = active.file.Datasync()\n\t}\n\tif err != nil {", "TestFailedSync"},
	{"the poison is forgotten", "writer.go", "return s.poisoned.Load()\n}", "return s.poisoned.Swap(nil)\n}", "TestFaults"},
	{"positions go on after a failed write", "writer.go", "\t\tw.pos = w.s.Head()\n", "", "TestFaults"},
	{"a full disk leaves a part of the batch", "writer.go",
		"if _, err := w.active.file.WriteAt(make([]byte, n), at); err != nil {\n\t\treturn false\n\t}\n\t", "", "TestFaults|TestFull"},
	{"the erasing of that part is not synced", "writer.go", "return w.s.syncLog(w.active, w.s.Head(), at) == nil", "return true", "TestErasedPartStaysErased"},
	{"a full disk ends all writing", "writer.go", "if errors.Is(err, syscall.ENOSPC) && w.erase(at, len(w.out)) {", "if errors.Is(err, syscall.ENOSPC) && w.erase(at, len(w.out)) && false {", "TestFull"},
	{"every record ends its batch", "commit.go", "&w.Events[i], left == 0, limit)", "&w.Events[i], true, limit)", "TestPowerCuts"},
	{"a batch of any size is accepted", "commit.go", "size > limit {", "size > 1<<40 {", "TestTooLarge"},
	{"a write crosses the end of its segment", "writer.go",
		"if w.active.end.Load()+int64(len(w.out)+len(c.buf)) > w.active.size {", "if w.active.end.Load()+int64(len(w.out)) > w.active.size {", "TestPowerCuts"},
	{"the checksum does not cover the length", "record.go",
		"crc32.Update(seed, castagnoli, b[atLength:])", "crc32.Update(seed, castagnoli, b[atPosition:])", "TestGoldenIsWritten"},
	{"the checksum does not depend on the segment", "segment.go", "return crc32.Checksum(b, castagnoli)", "return uint32(len(b))", "TestRecordsOfAnotherSegment"},
	{"the watermark is too high", "writer.go",
		"unsynced := uint32(w.active.end.Load() + int64(len(w.out)) - w.active.synced.Load())", "unsynced := uint32(len(w.out))", "TestPowerCuts"},

	{"the old segment is not synced when it is left", "roll.go",
		"if err := s.syncLog(w.active, w.pos, w.active.end.Load()); err != nil {", "if err := error(nil); err != nil {", "TestPowerCuts"},
	{"a new segment is used before its header is synced", "roll.go",
		"if err := sp.file.Sync(); err != nil {", "if err := error(nil); err != nil {", "TestPowerCuts"},
	{"a new segment is used before its name is synced", "roll.go",
		"renamed = true\n\tif err := s.syncDir(); err != nil {", "renamed = true\n\tif err := error(nil); err != nil {", "TestPowerCuts"},
	{"a file is renamed before it is synced", "small.go", "err = f.Sync()", "err = nil", "TestPowerCuts"},
	{"a rename is not made durable", "small.go", "if err := s.syncDir(); err != nil {", "if err := error(nil); err != nil {", "TestPowerCuts"},
	{"written on after an unsure manifest", "small.go", "\t\ts.fail(err)\n\t\ts.unnamed.Store(true)\n", "", "TestUnsureManifest"},
	{"a failed sync of the directory is for one caller", "small.go", "\t\ts.unnamed.Store(true)\n", "", "TestFailedSyncOfAnother|TestOpenAfterFailure"},
	{"the handlers' file of a store that was not closed is believed", "recover.go",
		"s.handlers.dirty = true // the same", "s.handlers.dirty = false // the same", "TestOpenAfterFailure"},
	{"compaction goes on after an unsure manifest", "compact.go", "return c, p.err() // the manifest", "_ = p // the manifest", "TestOpenAfterFailure"},
	{"a checkpoint is ahead of the durable log", "handlers.go",
		"err := s.syncWritten()", "err := error(nil)", "TestPowerCuts|TestDurability"},

	{"the lock is not taken", "store.go", "if err := s.takeLock(); err != nil {", "if err := error(nil); err != nil {", "TestLock"},
	{"Close keeps the lock", "store.go", "errs = append(errs, s.lock.Close())", "_ = s.lock", "TestLock"},
	{"the length of a record is trusted", "scan.go", "if n < recordHeader || int64(n) > left {", "if n < recordHeader {", "TestSmallLogMatrix"},
	{"the length of what looks like a record is trusted", "scan.go", "if n < recordHeader || int64(n) > c.size-off || ", "if n < recordHeader || ", "TestSmallLogMatrix|TestPowerCuts"},
	{"the end is cut although what follows was on disk", "scan.go",
		"r.durable = r.durable || off-unsynced > place", "_ = unsynced", "TestDamageBeforeTheWatermark"},
	{"half a batch is found", "recover.go", "\t\tif rec.end {\n\t\t\twhole = *x", "\t\tif true {\n\t\t\twhole = *x", "TestPowerCuts"},
	{"a torn end is not erased", "cut.go", "err == nil && off < end; off", "err == nil && off < off; off", "TestTornEnd"},
	{"a torn end is erased once", "recover.go", "if err := s.eraseAgain(active, end); err != nil {", "if err := error(nil); err != nil {", "TestTornEndAfterFailure"},
	{"a torn end is not kept", "cut.go", "s.saveBytes(fmt.Sprint(damagedName(seg), off), b)", "s.saveBytes(fmt.Sprint(damagedName(seg), off), nil)", "TestTornEnd"},
	{"what is found after a crash is not synced", "recover.go", "if err := active.file.Datasync(); err != nil {", "if err := error(nil); err != nil {", "TestFoundIsSynced"},
	{"the manifest says closed while it is written to", "recover.go",
		"err = s.writeManifest(segs, nil)", "err = nil", "TestPowerCuts"},
	{"the end of a closed log is not compared", "recover.go", "case m.Clean != nil && *m.Clean != end:", "case false:", "TestClosedLogEndsWhereItSays"},
	{"the log may end before what the handlers' file saw on disk", "recover.go", "case f.Head > head:", "case false:", "TestLogEndsBeforeTheHandlersFile"},
	{"segments that the manifest does not name are removed", "recover.go",
		"if err := s.checkUnlisted(m, keep); err != nil {", "if err := error(nil); err != nil {", "TestStaleManifest"},
	{"a store without its manifest is made anew", "recover.go", "return nil, s.checkNew(path)", "return nil, nil", "TestSmallLogMatrix"},
	{"a foreign segment is read", "recover.go", "case s.id != zero && h.id != s.id:", "case s.id == zero && h.id == s.id:", "TestForeignFiles"},
	{"a foreign index is believed", "indexfile.go", "case string(b[16:32]) != string(id[:]):", "case len(id) == 0:", "TestForeignFiles"},
	{"an index that is damaged is believed", "indexfile.go",
		"if binary.LittleEndian.Uint32(b[12:]) != crc32.Checksum(b[16:], castagnoli) {", "if false {", "TestSmallLogMatrix"},
	{"an index is believed that does not cover its segment", "indexfile.go",
		"if err == nil && next != 0 && x.next != next {", "if err == nil && next != 0 && x.next > next {", "TestIndexThatDoesNotFit"},
	{"an index is ahead of the log", "indexfile.go", "case x.end < segmentHeader || x.end > seg.size:", "case x.end < segmentHeader:", "TestIndexThatDoesNotFit"},
	{"more things than bytes are allocated", "record.go", "if n > uint64(len(d.b)/bytes) {", "if n > 1<<40 {", "FuzzIndex"},
	{"missing versions need no explanation", "recover.go", "if err := ix.checkGaps(); err != nil {", "if err := error(nil); err != nil {", "TestMissingVersionsNeedAReason"},

	{"a record is read without its checksum", "read.go",
		"if err == nil && !checkRecord(b, seg.sum) {", "if err == nil && false {", "TestEveryReadChecks"},
	{"a block is read without its checksums", "read.go", "if checkRecord(b, seg.sum) {", "if true {", "TestEveryReadChecks"},
	{"a failed read is the end of the log", "read.go", "if err == nil || n > 0 {\n\t\t\treturn n, next, nil // what", "if true {\n\t\t\treturn n, next, nil // what", "TestReadFails"},
	{"reading back, a page that ends in a gap is skipped", "read.go",
		"if i >= int64(seg.events.Load()) || seg.position(uint32(i)) > pos {", "if i >= int64(seg.events.Load()) {", "TestModel|TestConformance"},

	{"compaction drops the last truncate record", "compact.go", "rec.version >= st.truncated", "rec.version > st.truncated", "TestModel|TestPowerCuts"},
	{"compaction drops what says that a stream is deleted", "compact.go", "case kindDelete:\n\t\treturn true", "case kindDelete:\n\t\treturn false", "TestModel|TestPowerCuts"},
	{"compaction drops an event that is not removed", "compact.go",
		"return uint64(rec.position) >= st.cut.Load()\n", "return uint64(rec.position) > st.cut.Load()\n", "TestModel|TestPowerCuts"},
	{"a compacted segment is used before it is synced", "compact.go", "if err := f.Sync(); err != nil {", "if err := error(nil); err != nil {", "TestPowerCuts"},
	{"the old segment is removed before the new one is in the manifest", "compact.go",
		"if err := s.replaceSegment(old, seg); err != nil {", "s.fs.Remove(old.name())\n\ts.fs.SyncDir()\n\tif err := s.replaceSegment(old, seg); err != nil {", "TestPowerCuts|TestFailedCompaction"},
	{"a failed compaction removes the file that the manifest may name", "compact.go",
		"if _, placed = errors.AsType[*unsureError](err); placed {", "if _, unsure := errors.AsType[*unsureError](err); unsure {", "TestUnsureManifest"},
	{"a truncated event comes back", "contents.go",
		"case version > p.first:\n\t\t\tst.cut.Store(uint64(p.at(version)))", "case version > p.first:\n\t\t\tst.cut.Store(uint64(p.at(version)) - 1)", "TestModel"},
	{"a segment of a later format is read", "segment.go", "v == 0 || v > formatVersion {", "v == 0 {", "TestFormatVersions"},
	{"a snapshot is ahead of the durable log", "snapshots.go", "if s.Durable() < snap.Position {", "if false {", "TestSnapshotsAreNotAhead"},
	{"a snapshot is read without its checksum", "snapshots.go",
		"case binary.LittleEndian.Uint32(b[8:]) != crc32.Update(seed, castagnoli, b[head:]):", "case false:", "TestSnapshotsThatAreDamaged"},
	{"the head of a snapshot is read without its checksum", "snapshots.go",
		"if le.Uint32(b) != crc32.Update(seed, castagnoli, b[4:]) || le.Uint32(b[56:]) != 0 {", "if le.Uint32(b[56:]) != 0 {", "TestSnapshotsThatAreDamaged"},
	{"snapshots outlive a repair", "repair.go", "if err := x.s.emptySnapshots(); err != nil {", "if err := error(nil); err != nil {", "TestSnapshotsAndRepair"},
	{"an index outlives a repair", "repair.go", "if err := s.emptyIndexes(x.whole); err != nil {", "if err := error(nil); err != nil {", "TestRepairAfterFailure"},
	{"the format changes unseen", "record.go", "flagID    = 0x40\n\tflagMeta  = 0x20", "flagID    = 0x20\n\tflagMeta  = 0x40", "TestGoldenIsWritten"},
}

// TestPlantsFit makes sure that every plant is still of this code, and is told of in the document.
func TestPlantsFit(t *testing.T) {
	doc := readDoc(t, "planted-bugs.md")
	seen := make(map[string]bool)
	for _, p := range plants {
		text, err := os.ReadFile(p.file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), p.old); n != 1 || p.old == p.new || seen[p.name] {
			t.Errorf("plant %q: its text is %d times in %s; seen before: %v", p.name, n, p.file, seen[p.name])
		}
		seen[p.name] = true
		if row := fmt.Sprintf("| %s | %s | %s |", p.name, p.file, strings.ReplaceAll(p.tests, "|", ", ")); !strings.Contains(doc, row) {
			t.Errorf("docs/planted-bugs.md has no row %q", row)
		}
	}
}

// TestNamedTestsExist looks for every test that a document names.
func TestNamedTestsExist(t *testing.T) {
	var tests strings.Builder
	files, err := filepath.Glob("*_test.go")
	for _, dir := range []string{"..", "../backendtest", "../../dispatch", "../../actor", "../../verify", "internal/crashfs", "../.."} {
		more, globErr := filepath.Glob(dir + "/*.go")
		if files = append(files, more...); err == nil {
			err = globErr
		}
	}
	for _, file := range files {
		text, readErr := os.ReadFile(file)
		if err == nil {
			err = readErr
		}
		tests.Write(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range []string{"planted-bugs.md", "filestore-format.md"} {
		for _, name := range regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`).FindAllString(readDoc(t, doc), -1) {
			if !strings.Contains(tests.String(), "func "+name+"(") {
				t.Errorf("docs/%s names %s, which there is not", doc, name)
			}
		}
	}
}

func readDoc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
