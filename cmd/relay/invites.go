package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/matrixrelay/relay/policy"
)

// inviteDays is for how long an invite is good if nothing else is said.
const inviteDays = 30

// An inviteKey is the file of the secret that all invites come from.
type inviteKey string

func (k *inviteKey) flags(f *pflag.FlagSet) {
	f.StringVar((*string)(k), "invite-key", "", "all invites come from the secret in this `FILE`, which is made if there\nis none; with another, invites that weren't used are void")
}

// key reads the key, and makes it if there is none.
func (k inviteKey) key() ([]byte, error) {
	key, err := readOrMakeSecret(string(k), policy.MinInviteKey)
	if err != nil {
		return nil, fmt.Errorf("--invite-key: %w", err)
	}
	return key, nil
}

// readOrMakeSecret reads a secret of that many bytes at least, and makes it if there is
// no file.
func readOrMakeSecret(file string, least int) ([]byte, error) {
	secret, err := readSecret(file, least)
	if errors.Is(err, fs.ErrNotExist) {
		secret = []byte(rand.Text())
		err = writeNew(file, append(secret[:len(secret):len(secret)], '\n'))
	}
	return secret, err
}

func readSecret(file string, least int) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	secret := bytes.TrimSpace(text)
	if len(secret) < least {
		return nil, fmt.Errorf("there are less than %d bytes in %s", least, file)
	}
	return secret, nil
}

// An invite is one to be made.
type invite struct {
	key     inviteKey
	servers int
	until   string
}

const inviteHelp = `Print an invite, with which servers open a mailbox at a relay in mode invite that
has the same --invite-key. The relay may run meanwhile.`

func newInvite() *cobra.Command {
	var i invite
	c := &cobra.Command{
		Use: "invite", Short: "Make an invite to a relay", Long: inviteHelp, GroupID: groupRun, Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			text, err := i.make(time.Now())
			if err != nil {
				return err
			}
			return show(c, text, map[string]any{"invite": text})
		},
	}
	i.key.flags(c.Flags())
	c.Flags().IntVar(&i.servers, "servers", 1, "make it for this `NUMBER` of servers")
	c.Flags().StringVar(&i.until, "until", "", "have it be good until the end of this `DAY` in UTC, such as\n2026-12-31 (default in "+fmt.Sprint(inviteDays)+" days)")
	return c
}

// make makes the invite.
func (i *invite) make(now time.Time) (string, error) {
	if i.key == "" {
		return "", usageError{errors.New("--invite-key is required")}
	}
	until := now.AddDate(0, 0, inviteDays)
	if i.until != "" {
		var err error
		if until, err = time.Parse(time.DateOnly, i.until); err != nil {
			return "", usageError{fmt.Errorf("--until: %q is not a day such as 2026-12-31", i.until)}
		}
	}
	key, err := i.key.key()
	if err != nil {
		return "", err
	}
	return policy.NewInviteText(key, i.servers, until)
}
