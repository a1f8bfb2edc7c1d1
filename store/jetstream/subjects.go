package jetstream

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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
func (s subjects) clock() string { return string(s) + ".clock" }

// noted is the subject that every change of notes writes to.
func (s subjects) noted() string { return string(s) + ".noted" }

func (s subjects) note(key string) string            { return fmt.Sprintf("%s.note.x%x", s, key) }
func (s subjects) box(of spec.ServerName) string     { return fmt.Sprintf("%s.box.x%x", s, string(of)) }
func (s subjects) mail(key seal.Key) string          { return fmt.Sprintf("%s.mail.%x", s, key) }
func (s subjects) part(key seal.Key, n int64) string { return fmt.Sprintf("%s.part.%x.%d", s, key, n) }

func (s subjects) page(of spec.ServerName, first int64) string {
	return fmt.Sprintf("%s.page.%s.%d", s, shortHash(of), first)
}

func (s subjects) share(of spec.ServerName, origin originHash) string {
	return fmt.Sprintf("%s.share.%s.%x", s, shortHash(of), origin)
}

// sharesOf are the subjects of the shares of an origin.
func (s subjects) sharesOf(origin originHash) string { return fmt.Sprintf("%s.share.*.%x", s, origin) }

// damage is where it is said that a message of an entry was set aside.
func (s subjects) damage(of spec.ServerName, id int64, n int) string {
	return fmt.Sprintf("%s.damage.%s.%d.%d", s, shortHash(of), id, n)
}

// messages returns the subjects of all messages of an entry's mail.
func (s subjects) messages(i item) []string {
	all := []string{s.mail(i.key)}
	for part := range i.parts {
		all = append(all, s.part(i.key, part+1))
	}
	return all
}

// name returns the name that a subject of that kind ends with.
func (s subjects) name(kind, subject string) (string, bool) {
	encoded, ok := strings.CutPrefix(subject, string(s)+kind+"x")
	name, err := hex.DecodeString(encoded)
	return string(name), ok && err == nil
}

// boxName returns whose mailbox it is, if the subject is that of a mailbox.
func (s subjects) boxName(subject string) (spec.ServerName, bool) {
	name, ok := s.name(".box.", subject)
	return spec.ServerName(name), ok
}

// shareOf returns the hash of the mailbox that a share is of.
func (s subjects) shareOf(subject string) (hash string) {
	if rest, ok := strings.CutPrefix(subject, string(s)+".share."); ok {
		hash, _, _ = strings.Cut(rest, ".")
	}
	return hash
}

func shortHash(of spec.ServerName) string {
	sum := sha256.Sum256([]byte(of))
	return hex.EncodeToString(sum[:12])
}

// isRecord reports whether the cache may have the message of the subject.
func (s subjects) isRecord(subject string) bool {
	_, isBox := s.boxName(subject)
	return isBox || s.shareOf(subject) != "" || subject == s.noted() || subject == s.clock()
}
