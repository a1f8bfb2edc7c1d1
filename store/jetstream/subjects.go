package jetstream

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/store/internal/seal"
)

// subjects gives the subjects of a stream, which all begin with its name. Each
// has at most one message. Names stand in them in hexadecimal, since they may
// have any bytes, and with a letter before them, since they may have none.
type subjects string

func (s subjects) all() string   { return string(s) + ".>" }
func (s subjects) boxes() string { return string(s) + ".box.*" }
func (s subjects) notes() string { return string(s) + ".note.*" }

func (s subjects) box(destination spec.ServerName) string {
	return string(s) + ".box.x" + hex.EncodeToString([]byte(destination))
}

func (s subjects) page(destination spec.ServerName, first int64) string {
	return string(s) + ".page." + shortHash(destination) + "." + strconv.FormatInt(first, 10)
}

func (s subjects) share(destination spec.ServerName, origin originHash) string {
	return string(s) + ".share." + shortHash(destination) + "." + hex.EncodeToString(origin[:])
}

func (s subjects) mail(key seal.Key) string {
	return string(s) + ".mail." + hex.EncodeToString(key[:])
}

func (s subjects) part(key seal.Key, n int64) string {
	return string(s) + ".part." + hex.EncodeToString(key[:]) + "." + strconv.FormatInt(n, 10)
}

// messages returns the subjects of all messages of an entry's mail.
func (s subjects) messages(i item) []string {
	all := []string{s.mail(i.key)}
	for part := range i.parts {
		all = append(all, s.part(i.key, part+1))
	}
	return all
}

// damage is where it is said that a message of an entry was set aside.
func (s subjects) damage(destination spec.ServerName, id int64, n int) string {
	return string(s) + ".damage." + shortHash(destination) + "." + strconv.FormatInt(id, 10) + "." + strconv.Itoa(n)
}

func (s subjects) note(key string) string {
	return string(s) + ".note.x" + hex.EncodeToString([]byte(key))
}

func (s subjects) clock() string { return string(s) + ".clock" }

// noted is what every change of notes writes.
func (s subjects) noted() string { return string(s) + ".noted" }

// name returns the name that a subject of box or note ends with.
func (s subjects) name(subject string) (string, bool) {
	_, encoded, _ := strings.Cut(strings.TrimPrefix(subject, string(s)+"."), ".x")
	name, err := hex.DecodeString(encoded)
	return string(name), err == nil
}

// boxName returns whose mailbox it is, if the subject is that of a mailbox.
func (s subjects) boxName(subject string) (spec.ServerName, bool) {
	name, ok := s.name(subject)
	return spec.ServerName(name), ok && strings.HasPrefix(subject, string(s)+".box.")
}

func shortHash(destination spec.ServerName) string {
	sum := sha256.Sum256([]byte(destination))
	return hex.EncodeToString(sum[:12])
}

// shareOf returns the hash of the mailbox that a share is of.
func (s subjects) shareOf(subject string) (hash string) {
	if rest, ok := strings.CutPrefix(subject, string(s)+".share."); ok {
		hash, _, _ = strings.Cut(rest, ".")
	}
	return hash
}

// isRecord reports whether the cache may have what the subject has.
func (s subjects) isRecord(subject string) bool {
	_, isBox := s.boxName(subject)
	return isBox || s.shareOf(subject) != "" || subject == s.noted() || subject == s.clock()
}
