package relay

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strings"
	"sync"
)

// compressFrom is the size from which a list is worth compressing.
const compressFrom = 1 << 10

// gzipWriters are kept, since each takes 800 KB: many more than most lists.
var gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// compressed returns a list in gzip, if its receiver reads that. Most of a list is names
// that it has again and again; transactions aren't compressed, since they may have secrets
// in them beside content of strangers.
func compressed(list answer, r *http.Request) answer {
	if list.size() < compressFrom || !readsGzip(r.Header.Values("Accept-Encoding")) {
		return list
	}
	var text bytes.Buffer
	to := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(to)
	to.Reset(&text)
	for _, piece := range list.pieces {
		_, _ = to.Write(piece) // a bytes.Buffer takes all
	}
	if to.Close() != nil {
		return list
	}
	list.pieces, list.gzip = [][]byte{text.Bytes()}, true
	return list
}

// readsGzip reports whether gzip is among the encodings that a receiver reads. One with a
// weight of zero is refused.
func readsGzip(accepted []string) bool {
	for _, encoding := range strings.Split(strings.Join(accepted, ","), ",") {
		name, weight, _ := strings.Cut(strings.ReplaceAll(encoding, " ", ""), ";")
		if strings.EqualFold(name, "gzip") {
			return strings.TrimRight(strings.TrimPrefix(weight, "q="), ".0") != "" || weight == ""
		}
	}
	return false
}
