package relay_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/stretchr/testify/require"

	"github.com/matrixrelay/relay"
	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/store"
	"github.com/matrixrelay/relay/store/memory"
	"github.com/matrixrelay/relay/wire"
)

// The examples in docs/protocol.md are a conversation. Here it is played, in
// simulated time, so that the numbers of the entries are those of the page too.

// A fence is an example in a page, with the words behind its three backticks.
type fence struct{ kind, name, text string }

func readFences(t *testing.T) (page string, fences []fence) {
	raw, err := os.ReadFile("docs/protocol.md")
	require.NoError(t, err)
	page = string(raw)
	var open *fence
	for line := range strings.Lines(page) {
		line = strings.TrimLeft(line, " ")
		words, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open == nil:
			kind, name, _ := strings.Cut(words, " ")
			open = &fence{kind: kind, name: name}
		case isFence:
			fences, open = append(fences, *open), nil
		case open != nil:
			open.text += line
		}
	}
	require.Nil(t, open)
	return page, fences
}

// docNames are the servers of the page.
func docNames() map[string]spec.ServerName {
	names := make(map[string]spec.ServerName)
	for i, who := range []string{"A", "B", "R", "S"} {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, ed25519.SeedSize))
		names[who] = spec.ServerName(hex.EncodeToString(key.Public().(ed25519.PublicKey)))
	}
	return names
}

func newDocRelay(t *testing.T, name spec.ServerName, inviteKey []byte) *relay.Server {
	config := relay.Config{ServerName: name, Store: memory.New(memory.Options{}), Logger: slog.New(slog.DiscardHandler)}
	if inviteKey != nil {
		invite, err := policy.NewInvite(policy.InviteConfig{Store: config.Store, ServerName: name, Key: inviteKey})
		require.NoError(t, err)
		config.Policy, err = policy.NewOwners(policy.OwnersConfig{Store: config.Store, Mode: invite})
		require.NoError(t, err)
		nameMailbox(t, config.Store.(store.Notes), docNames()["B"])
	}
	mail := config.Store
	server, err := relay.New(config)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.NoError(t, mail.Close())
	})
	return server
}

// nameMailbox gives a mailbox the name that the page has: a relay makes it at random.
func nameMailbox(t *testing.T, notes store.Notes, owner spec.ServerName) {
	note := store.Note{Key: "relay/owned/" + string(owner), Value: []byte(`{"mailbox":"LVKQ3RHEHW4MGVPSH7NDNAQJYM"}`)}
	require.NoError(t, notes.SetNotes(t.Context(), []store.Note{note}))
}

// readRequest reads an example of a request.
func readRequest(t *testing.T, text string) *http.Request {
	head, body, ok := strings.Cut(text, "\n\n")
	require.True(t, ok)
	lines := strings.Split(head, "\n")
	method, uri, ok := strings.Cut(lines[0], " ")
	require.True(t, ok)
	r := httptest.NewRequest(method, uri, strings.NewReader(strings.TrimSpace(body)))
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ": ")
		require.True(t, ok, line)
		r.Header.Set(name, value)
	}
	return r
}

func TestProtocolPage(t *testing.T) {
	page, fences := readFences(t)
	names := docNames()
	for who, name := range names {
		require.Contains(t, page, "| `"+string(name)+"` |", who)
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.UnixMilli(1766620800000))) // when the page's story is told
		relays := map[string]*relay.Server{
			"R": newDocRelay(t, names["R"], nil), "S": newDocRelay(t, names["S"], nil),
			"I": newDocRelay(t, names["R"], bytes.Repeat([]byte{5}, 32)), // of R in another mode
		}
		answer, requests, answers := "", 0, 0
		for _, f := range fences {
			switch f.kind + " " + f.name {
			case "http R", "http S", "http I":
				w := httptest.NewRecorder()
				relays[f.name].ServeHTTP(w, readRequest(t, f.text))
				answer, requests = w.Body.String(), requests+1
			case "json answer":
				require.JSONEq(t, f.text, answer)
				answers++
			case "json relay_proof", "json signed", "json receipt":
			default:
				t.Fatalf("an example of an unknown kind: %s %s", f.kind, f.name)
			}
		}
		require.Equal(t, requests, answers, "each request has its answer")
		require.Greater(t, requests, 9)
	})
}

// The proof on the page is that of the first request, and it signs the bytes on the
// page.
func TestProofOnThePage(t *testing.T) {
	_, fences := readFences(t)
	names := docNames()
	examples := make(map[string]string)
	for _, f := range fences {
		if examples[f.name] == "" {
			examples[f.name] = strings.TrimSpace(f.text)
		}
	}
	r := readRequest(t, examples["R"])
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	request := wire.SignedRequest{Method: r.Method, URI: r.RequestURI, Authorization: r.Header.Values("Authorization"), Content: body}
	want, ok := wire.ProofOf(&request, names["R"])
	require.True(t, ok)
	proof, err := wire.ReadProof([]byte(examples["relay_proof"]))
	require.NoError(t, err)
	require.Equal(t, want, proof)
	proven, err := proof.Check(t.Context(), relay.HexKeys{}, body, names["B"])
	require.NoError(t, err)
	require.Equal(t, names["A"], proven.Origin)
	require.EqualValues(t, "1766620800000-1", proven.TransactionID)

	// Step by step, without this code.
	canonical, err := gomatrixserverlib.CanonicalJSON([]byte(examples["signed"]))
	require.NoError(t, err)
	require.Equal(t, examples["signed"], string(canonical))
	var signed struct{ Content json.RawMessage }
	require.NoError(t, json.Unmarshal(canonical, &signed))
	require.Equal(t, string(body), string(signed.Content))
	key, err := hex.DecodeString(string(names["A"]))
	require.NoError(t, err)
	signature, err := base64.RawStdEncoding.DecodeString(proof.Signature)
	require.NoError(t, err)
	require.True(t, ed25519.Verify(key, canonical, signature))
}

// The receipt on the page is one that B has signed.
func TestReceiptOnThePage(t *testing.T) {
	_, fences := readFences(t)
	for _, f := range fences {
		if f.name == "receipt" {
			receipt, err := wire.ReadReceipt([]byte(f.text))
			require.NoError(t, err)
			require.NoError(t, receipt.Check(t.Context(), relay.HexKeys{}, time.Now()))
			require.Equal(t, docNames()["B"], receipt.Destination)
			return
		}
	}
	require.Fail(t, "there is none")
}

// Numbers on the page are those of the code.
func TestBoundsOnThePage(t *testing.T) {
	page, _ := readFences(t)
	page = strings.Join(strings.Fields(page), " ")
	for text, same := range map[string]bool{
		"at most 50, or null":                              wire.MaxPDUs == 50,
		"`edus` (at most 100)":                             wire.MaxEDUs == 100,
		"nests deeper than 128":                            wire.MaxDepth == 128,
		"more than 32,768":                                 wire.MaxWidth == 32768,
		"1 to 255 bytes":                                   wire.MaxTransactionIDBytes == 255,
		"over 10 MiB, 260 KiB for":                         relay.DefaultMaxBodyBytes == 10<<20 && wire.MaxFetchBytes == 260<<10,
		"1 to 500, each a list of two":                     wire.MaxReceiptItems == 500,
		"It has at most 32 KiB.":                           wire.MaxReceiptBytes == 32<<10,
		"up to 8 and 256 KiB":                              wire.MaxReceipts == 8 && wire.MaxReceiptsBytes == 256<<10,
		"at most 8 KiB of receipts":                        wire.MaxSentReceiptsBytes == 8<<10,
		"a list of 1 to 200 entry IDs":                     wire.MaxIDs == 200,
		"10,000 in all, for each destination":              relay.DefaultMaxReceipts == 10_000,
		"at most 500, 4 MiB":                               relay.DefaultMaxBatch == 500 && relay.DefaultMaxBatchBytes == 4<<20,
		"at most 5 minutes, 20,0":                          relay.DefaultMaxWait.Minutes() == 5 && relay.DefaultMaxWaiting == 20_000,
		"at most 4 KiB of JSON":                            wire.MaxProofBytes == 4<<10,
		"max-age=3600":                                     wire.InfoAge.Seconds() == 3600,
		"The answer has at most 16 KiB.":                   wire.MaxInfoBytes == 16<<10,
		"has at most 4 KiB, `invite` at most 128 bytes":    wire.MaxClaimBytes == 4<<10 && wire.MaxInvite == 128,
		"1 to 8, each with":                                wire.MaxRecordRelays == 8 && wire.MaxRelayAt == 2,
		"others either. It has at most 4 KiB":              wire.MaxRecordBytes == 4<<10,
		"<= now + 91 days":                                 wire.RecordAge.Hours() == 91*24,
		"at most 1,000 names, and the body at most 80 KiB": wire.MaxPolicyNames == 1000 && wire.MaxPolicyBytes == 80<<10,
		"the bodies have at most 4 KiB":                    wire.MaxClaimBytes == 4<<10,
		"(here: 30 days)":                                  relay.DefaultLifetime.Hours() == 30*24,
	} {
		require.Contains(t, page, text)
		require.True(t, same, text)
	}
}
