package wire

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// CheckName returns an error unless server is a server name in its one
// spelling. Mailboxes and limits belong to names byte for byte, so a second
// spelling would be another mailbox for the same server, and a way around every
// limit for it.
//
// A name of 64 hex digits is a key (see HexKeys), in lower case. It must be a
// key that only its holder can sign with, as RFC 8032 encodes it. Other names
// are case-sensitive in Matrix: two spellings are two servers.
func CheckName(server spec.ServerName) error {
	if _, _, ok := spec.ParseAndValidateServerName(server); !ok {
		return errors.New("it is not a server name")
	}
	if !isHexKey(server) {
		return nil
	}
	_, err := keyOfName(server)
	return err
}

// isHexKey reports whether a name stands for a key, in any spelling.
func isHexKey(server spec.ServerName) bool {
	if len(server) != hex.EncodedLen(ed25519.PublicKeySize) {
		return false
	}
	for i := range len(server) {
		if c := server[i] | 0x20; (c < 'a' || c > 'f') && (server[i] < '0' || server[i] > '9') {
			return false
		}
	}
	return true
}

// keyOfName returns the key that a name stands for if isHexKey.
func keyOfName(server spec.ServerName) (ed25519.PublicKey, error) {
	key, err := hex.DecodeString(string(server))
	switch {
	case err != nil:
		return nil, fmt.Errorf("it is not hex: %w", err)
	case strings.ToLower(string(server)) != string(server):
		return nil, errors.New("a name that is a key is written in lower case")
	case !isCanonicalKey(key):
		return nil, errors.New("it is a key in another encoding than that of RFC 8032")
	case isSmallOrder(key):
		return nil, errors.New("it is a key that everybody can sign with")
	}
	return key, nil
}

// withoutSign returns the y coordinate in a key, without the bit that says
// which of two points it is.
func withoutSign(key []byte) (y [ed25519.PublicKeySize]byte) {
	copy(y[:], key)
	y[len(y)-1] &= 0x7f
	return y
}

// isCanonicalKey reports whether the y coordinate in a key is below 2^255-19.
func isCanonicalKey(key []byte) bool {
	y := withoutSign(key)
	if y[0] < 0xed || y[len(y)-1] != 0x7f {
		return true
	}
	return slices.ContainsFunc(y[1:len(y)-1], func(c byte) bool { return c != 0xff })
}

// smallOrder are the y coordinates of the eight points whose order divides 8,
// in hex. For a key that is one of these, anybody finds a signature.
var smallOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func isSmallOrder(key []byte) bool {
	y := withoutSign(key)
	var digits [2 * len(y)]byte
	hex.Encode(digits[:], y[:])
	return slices.ContainsFunc(smallOrder, func(small string) bool { return small == string(digits[:]) })
}
