package admin

import (
	"fmt"
	"strings"

	"github.com/matrixrelay/relay/activity"
	"github.com/matrixrelay/relay/wire"
)

// endpointWords say why a request is made.
var endpointWords = map[string]string{
	string(wire.SendRelay): "leave mail",
	string(wire.RelayTxn):  "fetch mail",
	string(wire.Mailbox):   "open or see a mailbox",
	string(wire.Relays):    "bring or ask where a server's mail goes",
	string(wire.Policy):    "say whose mail is wanted",
	string(wire.Leave):     "leave a mailbox",
	string(wire.Receipts):  "bring or ask for receipts",
	string(wire.Info):      "ask about this relay",
	"other":                "get something that isn't here",
}

// reasonWords say why a request is refused, by the reasons that the metrics have.
var reasonWords = map[string]string{
	"bad_request":  "it can't be read",
	"client_gone":  "its client went away before there was an answer",
	"closing":      "the relay was being shut down",
	"conflict":     "it is older than a change that holds",
	"failed":       "the relay or its store has a fault: see the log",
	"forbidden":    "its signer may not do that, such as to fetch another server's mail",
	"full":         "there is no room: the share of its sender or of the mailbox is used up, or the relay or its disk is full",
	"memory":       "too much was on its way at once",
	"method":       "its method is wrong",
	"no_key":       "the key of the server that signed it can't be had now",
	"not_found":    "the relay hasn't got it",
	"other":        "the program that the relay is in refuses it",
	"policy":       "the relay's policy, a block or the mailbox's owner doesn't admit its sender",
	"rate":         "its address or its sender has used up its share",
	"signature":    "it has no right signature",
	"slow_body":    "its body didn't come whole",
	"too_large":    "its body is too large",
	"unrecognized": "the path isn't there, or relaying was switched off",
}

// words are the ones for a key, or the key itself.
func words(of map[string]string, key string) string {
	if text, ok := of[key]; ok {
		return text
	}
	return strings.ReplaceAll(key, "_", " ")
}

func endpointText(endpoint string) string { return words(endpointWords, endpoint) }
func reasonText(reason string) string     { return words(reasonWords, reason) }

// countsText lists names and how often each was there.
func countsText(counts []activity.Count) string {
	var list []string
	for _, c := range counts {
		list = append(list, fmt.Sprintf("%s (%d)", c.Name, c.Times))
	}
	return strings.Join(list, ", ")
}
