package filestore

import (
	"encoding/hex"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/weirstore/weir/engine"
)

const (
	manifestName  = "manifest"
	manifestMagic = "WEIRMAN\n"
)

// manifest is the body of the file that says which segments the store consists of: without
// it nobody could tell that the last one is missing.
type manifest struct {
	Segments []manifestSegment `json:"segments"`
	// Clean says where the log ended when the store was closed. It is absent while the store
	// is open, and so after a crash.
	Clean *logEnd `json:"clean,omitempty"`
}

type manifestSegment struct {
	Base       engine.Position `json:"base"`
	Generation uint32          `json:"generation,omitempty"`
}

// logEnd is the end of the log.
type logEnd struct {
	Position engine.Position `json:"position"` // of the last event
	Offset   int64           `json:"offset"`   // behind the last record, in the last segment
}

// writeManifest makes the list of segments durable: fsync of the file and the directory.
// After a failure the manifest on disk is the old one or the new one. If nobody knows which of them a crash
// would leave, syncDir has ended all writing: it would fit only one of them. REQUIRES: s.meta.
func (s *Store) writeManifest(segs []*segment, clean *logEnd) error {
	m := manifest{Clean: clean}
	for _, seg := range segs {
		m.Segments = append(m.Segments, manifestSegment{seg.base, seg.generation})
	}
	b, err := encodeSmall(manifestMagic, s.id, m)
	if err != nil {
		return err
	}
	return s.replace(manifestName, b)
}

// checkManifest refuses a list that no store has.
func checkManifest(path string, m *manifest) error {
	if len(m.Segments) == 0 {
		return corrupt(path, smallHeader, "no segments")
	}
	for i, seg := range m.Segments {
		if i == 0 && seg.Base != 1 || i > 0 && (seg.Base < m.Segments[i-1].Base || seg == m.Segments[i-1]) {
			return corrupt(path, smallHeader, "segment %d begins at position %d", i+1, seg.Base)
		}
	}
	return nil
}

// path is a file's, for errors.
func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

func (id storeID) String() string { return hex.EncodeToString(id[:]) }

// parseSegmentName is the reverse of segmentName; strict, so that nothing else in the
// directory is taken for a segment.
func parseSegmentName(name string) (base engine.Position, generation uint32, ok bool) {
	stem, ok := strings.CutSuffix(name, ".seg")
	if !ok {
		return 0, 0, false
	}
	first, second, compacted := strings.Cut(stem, "-")
	b, err := strconv.ParseUint(first, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	g := uint64(0)
	if compacted {
		if g, err = strconv.ParseUint(second, 10, 32); err != nil {
			return 0, 0, false
		}
	}
	base, generation = engine.Position(b), uint32(g)
	return base, generation, segmentName(base, generation) == name
}

// isIndexName reports whether a segment's index file may have the name.
func isIndexName(name string) bool {
	stem, ok := strings.CutSuffix(name, indexEnding)
	if ok {
		_, _, ok = parseSegmentName(stem + ".seg")
	}
	return ok
}

// isTemporary reports whether the store gives the name to a file that is being made.
func isTemporary(name string) bool {
	stem, ok := strings.CutSuffix(name, temporary)
	switch {
	case !ok:
		return false
	case stem == manifestName, stem == handlersName, stem == snapshotsName, name == spareName, name == compactName:
		return true
	}
	return isIndexName(stem) || strings.HasPrefix(stem, damaged)
}
