package notebook

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/matrixrelay/relay/store"
)

// timeFields are the fields in which notes have a time of their store's clock, in seconds, by how
// their keys begin: notes of package policy (the first three) and of relay.Server.
var timeFields = map[string]string{
	"relay/claim/": "asked", "relay/member/": "asked", "relay/owned/": "left",
	"relay/record/": "changed", "relay/receipt/": "kept", "relay/receipts/": "looked", "relay/cleared/": "at",
}

// Shifted is a note as another store has to keep it, whose clock is ahead by that much of the
// clock of the store that the note is from. Else the note would expire too early, or never.
func Shifted(note store.Note, ahead time.Duration) store.Note {
	for prefix, field := range timeFields {
		if !strings.HasPrefix(note.Key, prefix) {
			continue
		}
		var fields map[string]json.RawMessage
		if json.Unmarshal(note.Value, &fields) != nil {
			return note
		}
		at, err := strconv.ParseInt(string(fields[field]), 10, 64)
		if err != nil { // there is none
			return note
		}
		fields[field] = strconv.AppendInt(nil, at+int64(ahead/time.Second), 10)
		if shifted, err := json.Marshal(fields); err == nil {
			note.Value = shifted
		}
		return note
	}
	return note
}
