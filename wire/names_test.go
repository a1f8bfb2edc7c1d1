package wire

import (
	"crypto/ed25519"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"
)

// curve is the part of edwards25519 that is needed to find its points of small order.
type curve struct{ p, d *big.Int }

func newCurve() curve {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d.Mul(d, big.NewInt(-121665)).Mod(d, p)
	return curve{p, d}
}

// encode is RFC 8032's encoding of a y coordinate and a sign.
func (c curve) encode(y *big.Int, negative bool) spec.ServerName {
	key := y.FillBytes(make([]byte, ed25519.PublicKeySize))
	slices.Reverse(key)
	if negative {
		key[len(key)-1] |= 0x80
	}
	return spec.ServerName(hex.EncodeToString(key))
}

// smallOrder derives the y coordinates of the points whose order divides 8:
// 1 and -1 have x = 0, 0 has order 4, and a point doubles to one with y = 0
// just if x² = -y², so that d·y⁴ + 2y² - 1 = 0.
func (c curve) smallOrder(t *testing.T) (ys []*big.Int) {
	ys = []*big.Int{big.NewInt(0), big.NewInt(1), new(big.Int).Sub(c.p, big.NewInt(1))}
	root := new(big.Int).Add(big.NewInt(1), c.d)
	require.NotNil(t, root.ModSqrt(root, c.p))
	for _, sign := range []int64{1, -1} {
		square := new(big.Int).Mul(root, big.NewInt(sign))
		square.Sub(square, big.NewInt(1)).Mul(square, new(big.Int).ModInverse(c.d, c.p)).Mod(square, c.p)
		if y := new(big.Int).ModSqrt(square, c.p); y != nil {
			ys = append(ys, y, new(big.Int).Sub(c.p, y))
		}
	}
	return ys
}

func TestSmallOrder(t *testing.T) {
	c := newCurve()
	var derived []string
	for _, y := range c.smallOrder(t) {
		derived = append(derived, string(c.encode(y, false)))
		for _, negative := range []bool{false, true} {
			name := c.encode(y, negative)
			require.Error(t, CheckName(name), name)
			_, known := HexKeys{}.KnownKey(name, "ed25519:1")
			require.False(t, known, name)
		}
	}
	slices.Sort(derived)
	require.Equal(t, derived, smallOrder)
}

// TestOtherEncodings: every y that isn't below the prime is refused, and the
// largest that is isn't.
func TestOtherEncodings(t *testing.T) {
	c := newCurve()
	for i := range int64(19) {
		y := new(big.Int).Add(c.p, big.NewInt(i))
		for _, negative := range []bool{false, true} {
			require.ErrorContains(t, CheckName(c.encode(y, negative)), "encoding")
		}
	}
	for i := range int64(20) {
		require.NoError(t, CheckName(c.encode(new(big.Int).Sub(c.p, big.NewInt(i+2)), false)))
	}
}

func TestCheckName(t *testing.T) {
	for name, good := range map[spec.ServerName]bool{
		testName: true, "example.org": true, "example.org:8448": true, "127.0.0.1:1": true, "[::1]:8448": true, "Example.org": true,
		spec.ServerName(strings.Repeat("g", 64)): true, testName[1:]: true,
		spec.ServerName(strings.ToUpper(string(testName))): false, spec.ServerName(strings.ToUpper(string(testName[:32]))) + testName[32:]: false,
		"": false, "a b": false, "~outbox/example.org": false,
	} {
		require.Equal(t, good, CheckName(name) == nil, "%q", name)
	}
}

// TestAnybodySigns is why such keys are refused: crypto/ed25519 accepts this
// signature, which needs no key, for every message.
func TestAnybodySigns(t *testing.T) {
	signature := make([]byte, ed25519.SignatureSize)
	signature[0] = 1 // R is the neutral element, S is 0
	key := make([]byte, ed25519.PublicKeySize)
	key[0] = 1
	require.True(t, ed25519.Verify(key, []byte("anything"), signature))

	const uri = "/_matrix/federation/v1/relay_txn/@user:b"
	weak := spec.ServerName(hex.EncodeToString(key))
	header := `X-Matrix origin="` + string(weak) + `",key="ed25519:1",sig="` + spec.Base64Bytes(signature).Encode() + `",destination="` + testRelay + `"`
	v := Verifier{ServerName: testRelay, Keys: HexKeys{}}
	_, err := v.Verify(t.Context(), &SignedRequest{"GET", uri, []string{header}, []byte(`{}`), nil, nil}, time.Now())
	var refused *Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, 401, refused.Status)

	p, r := signedProof(t, proofWithout)
	p.Origin, p.Signature = weak, spec.Base64Bytes(signature).Encode()
	_, err = p.Check(t.Context(), HexKeys{}, r.Content, proofTo)
	require.ErrorIs(t, err, ErrProof)
}

// TestOtherSpellingsHaveNoRoute: a destination is spelt in one way, too.
func TestOtherSpellingsHaveNoRoute(t *testing.T) {
	upper := strings.ToUpper(string(testName))
	weak := string(newCurve().encode(big.NewInt(1), false))
	for _, name := range []string{upper, weak} {
		for _, uri := range []string{"send_relay/1/@user:", "relay_txn/@user:"} {
			_, err := ParseURI(Prefix + uri + name)
			var refused *Error
			require.ErrorAs(t, err, &refused)
			require.Equal(t, 400, refused.Status, name)
			require.EqualValues(t, "M_INVALID_USERNAME", refused.Code)
		}
		_, err := UserAt(spec.ServerName(name))
		require.Error(t, err)
	}
}
