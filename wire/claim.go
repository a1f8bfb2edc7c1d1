package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// MaxClaimBytes bounds the body of a Mailbox request.
const MaxClaimBytes = 4 << 10

// MaxInvite bounds the part of an invite that is sent, in bytes.
const MaxInvite = 128

// MailboxURI is the URI of a Mailbox request.
const MailboxURI = Unstable + string(Mailbox)

// ClaimedAnswer is the answer to a server that has claimed its mailbox.
const ClaimedAnswer = `{"state":"open"}`

// A Claim is the body of a Mailbox request: the server that signs it claims its
// mailbox with an invite.
type Claim struct {
	// Invite is the part of the invite before the dot.
	Invite string `json:"invite"`

	// MAC is that of the other part: see InviteMAC.
	MAC string `json:"mac"`
}

// NewClaim makes the claim of a server of an invite's text.
func NewClaim(invite string, relay, server spec.ServerName) (Claim, error) {
	id, secret, ok := strings.Cut(strings.TrimSpace(invite), ".")
	if !ok || id == "" || secret == "" || len(id) > MaxInvite {
		return Claim{}, errors.New("wire: the invite is not a name and a secret with a dot between them")
	}
	return Claim{id, InviteMAC(secret, relay, server)}, nil
}

// InviteMAC shows that a server has the secret part of an invite of a relay. It can be
// used for no other server: a proxy that ends TLS on the way learns nothing of use.
func InviteMAC(secret string, relay, server spec.ServerName) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(relay + "\n" + server))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// ReadClaim reads the body of a Mailbox request. The error is an *Error, 400.
func ReadClaim(body []byte) (Claim, error) {
	var c Claim
	if err := json.Unmarshal(body, &c); err != nil {
		return Claim{}, BadRequest(spec.ErrorNotJSON, "the body can't be read as JSON")
	}
	if c.Invite == "" || len(c.Invite) > MaxInvite || c.MAC == "" {
		return Claim{}, BadRequest(spec.ErrorBadJSON, "invite and mac are required")
	}
	return c, nil
}
