package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/matrixrelay/relay/policy"
)

// inviteDays is for how long an invite is good if nothing else is said.
const inviteDays = 30

// invites are the command line's options on them.
type invites struct {
	keyFile string
	make    int // for so many servers
	until   string
}

func (i *invites) flags(f *flag.FlagSet) {
	f.StringVar(&i.keyFile, "invite-key", "", "all invites come from the secret in this `FILE`, which is made if there\nis none; with another, invites that weren't used are void")
	f.IntVar(&i.make, "make-invite", 0, "print an invite for this `NUMBER` of servers, and do nothing else\n(needs -invite-key; the relay may run meanwhile)")
	f.StringVar(&i.until, "invite-until", "", "have that invite be good until the end of this `DAY` in UTC, such as\n2026-12-31 (default in "+fmt.Sprint(inviteDays)+" days)")
}

func (i *invites) check() error {
	if i.keyFile == "" {
		return errors.New("-make-invite needs -invite-key")
	}
	return nil
}

// key reads the key, and makes it if there is none.
func (i *invites) key() ([]byte, error) {
	text, err := os.ReadFile(i.keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		text = []byte(rand.Text() + "\n")
		err = writeNew(i.keyFile, text)
	}
	if err != nil {
		return nil, fmt.Errorf("-invite-key: %w", err)
	}
	key := bytes.TrimSpace(text)
	if len(key) < policy.MinInviteKey {
		return nil, fmt.Errorf("-invite-key: there are less than %d bytes in %s", policy.MinInviteKey, i.keyFile)
	}
	return key, nil
}

// print makes an invite and writes it to out.
func (i *invites) print(out io.Writer) error {
	until := time.Now().AddDate(0, 0, inviteDays)
	if i.until != "" {
		var err error
		if until, err = time.Parse(time.DateOnly, i.until); err != nil {
			return fmt.Errorf("-invite-until: %q is not a day such as 2026-12-31", i.until)
		}
	}
	key, err := i.key()
	if err != nil {
		return err
	}
	text, err := policy.NewInviteText(key, i.make, until)
	if err != nil {
		return fmt.Errorf("-make-invite: %w", err)
	}
	_, err = fmt.Fprintln(out, text)
	return err
}
