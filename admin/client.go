package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrixrelay/relay/policy"
	"github.com/matrixrelay/relay/wire"
)

// maxAnswer bounds an answer that a Client reads: a page of entries with their bodies has
// most.
const maxAnswer = 64 << 20

const (
	// callTime bounds a call of a Client and its answer. A Desk does long work in steps, each
	// of which takes less by far. Only a backup isn't bounded by it.
	callTime = 2 * time.Minute

	// dialTime bounds how long connecting takes.
	dialTime = 30 * time.Second
)

// A Client is an Operator over HTTP. Make one with NewClient. An answer other than 200
// is a *wire.Error.
type Client struct {
	base  string
	token string
	http  *http.Client
}

var _ Operator = (*Client)(nil)

// NewClient makes a Client for the Handler at an address: unix:PATH for a Unix socket,
// or an http or https URL, also with a path that the Handler is mounted on. An empty
// token sends none. Contexts end its calls, and so does a limit of two minutes, except that a
// backup may take as long as it needs.
func NewClient(address, token string) (*Client, error) {
	dialer := &net.Dialer{Timeout: dialTime}
	transport := &http.Transport{
		DialContext: dialer.DialContext, TLSHandshakeTimeout: dialTime,
		MaxIdleConns: 4, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
	}
	client := &Client{base: strings.TrimSuffix(address, "/"), token: token, http: &http.Client{Transport: transport}}
	if path, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		client.base = "http://relay"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		return client, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("admin: %q is neither unix:PATH nor an http or https URL", address)
	}
	// A token must not go where a redirect says.
	client.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client, nil
}

// Close ends the connections that aren't in use.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// call makes a request and reads the answer. A nil body is a GET.
func call[T any](ctx context.Context, c *Client, path string, query url.Values, body any) (answer T, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	response, err := c.request(ctx, path, query, body)
	if err != nil {
		return answer, err
	}
	return readAnswer[T](response)
}

func (c *Client) request(ctx context.Context, path string, query url.Values, body any) (*http.Response, error) {
	method, content := http.MethodGet, io.Reader(nil)
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("admin: %w", err)
		}
		method, content = http.MethodPost, bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path+"?"+query.Encode(), content)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	return response, nil
}

// readAnswer reads an answer to its end, and closes it.
func readAnswer[T any](response *http.Response) (answer T, err error) {
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	read, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer, fmt.Errorf("admin: the answer: %w", err)
	case len(read) > maxAnswer:
		return answer, fmt.Errorf("admin: the answer has more than %d bytes", maxAnswer)
	case response.StatusCode != http.StatusOK:
		return answer, wire.ParseError(response.StatusCode, response.Header, read)
	}
	if err := json.Unmarshal(read, &answer); err != nil {
		return answer, fmt.Errorf("admin: the answer: %w", err)
	}
	if bytes.Equal(bytes.TrimSpace(read), []byte("null")) { // no Desk answers this
		return answer, errors.New("admin: the answer is empty")
	}
	return answer, nil
}

// queryOf makes a query of those values that aren't empty.
func queryOf(keysAndValues ...string) url.Values {
	query := make(url.Values)
	for i := 0; i < len(keysAndValues); i += 2 {
		if value := keysAndValues[i+1]; value != "" && value != "0" && value != "false" {
			query.Set(keysAndValues[i], value)
		}
	}
	return query
}

// Status implements Operator.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return call[*Status](ctx, c, pathStatus, nil, nil)
}

// Mailboxes implements Operator.
func (c *Client) Mailboxes(ctx context.Context, q MailboxQuery) ([]Mailbox, error) {
	return call[[]Mailbox](ctx, c, pathMailboxes, queryOf("after", string(q.After), "limit", strconv.Itoa(q.Limit),
		"origin", string(q.Origin), "unfetched", strconv.FormatBool(q.Unfetched), "private", strconv.FormatBool(q.Private)), nil)
}

// Mailbox implements Operator.
func (c *Client) Mailbox(ctx context.Context, name spec.ServerName) (*Mailbox, error) {
	return call[*Mailbox](ctx, c, pathMailbox, queryOf("name", string(name)), nil)
}

// Entries implements Operator.
func (c *Client) Entries(ctx context.Context, q EntryQuery) ([]Entry, error) {
	return call[[]Entry](ctx, c, pathEntries, queryOf("mailbox", string(q.Mailbox), "after", strconv.FormatInt(q.After, 10),
		"limit", strconv.Itoa(q.Limit), "bodies", strconv.FormatBool(q.Bodies)), nil)
}

// Facts implements Operator.
func (c *Client) Facts(ctx context.Context, server spec.ServerName) ([]Fact, error) {
	return call[[]Fact](ctx, c, pathFacts, queryOf("server", string(server)), nil)
}

// Forget implements Operator.
func (c *Client) Forget(ctx context.Context, server spec.ServerName) error {
	_, err := call[forgetRequest](ctx, c, pathForget, nil, forgetRequest{server})
	return err
}

// Senders implements Operator.
func (c *Client) Senders(ctx context.Context, mailbox spec.ServerName, limit int) ([]Sender, error) {
	return call[[]Sender](ctx, c, pathSenders, queryOf("mailbox", string(mailbox), "limit", strconv.Itoa(limit)), nil)
}

// Purge implements Operator.
func (c *Client) Purge(ctx context.Context, p Purge) (*Purged, error) {
	return call[*Purged](ctx, c, pathPurge, nil, p)
}

// Verify implements Operator.
func (c *Client) Verify(ctx context.Context, from Position) (*Verified, error) {
	return call[*Verified](ctx, c, pathVerify, nil, from)
}

// Blocked implements Operator.
func (c *Client) Blocked(ctx context.Context, after string, limit int) ([]policy.Block, error) {
	return call[[]policy.Block](ctx, c, pathBlocked, queryOf("after", after, "limit", strconv.Itoa(limit)), nil)
}

// Block implements Operator.
func (c *Client) Block(ctx context.Context, block policy.Block) (*policy.Block, error) {
	return call[*policy.Block](ctx, c, pathBlock, nil, block)
}

// Unblock implements Operator.
func (c *Client) Unblock(ctx context.Context, entity string) (bool, error) {
	answer, err := call[unblockAnswer](ctx, c, pathUnblock, nil, unblockRequest{entity})
	return answer.Found, err
}

// Invite implements Operator.
func (c *Client) Invite(ctx context.Context, uses int, until time.Time) (string, error) {
	answer, err := call[inviteAnswer](ctx, c, pathInvite, nil, inviteRequest{uses, until})
	return answer.Invite, err
}
