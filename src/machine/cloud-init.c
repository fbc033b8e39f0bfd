#include "machine/cloud-init.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/strbuf.h"
#include "machine/blob.h"
#include "machine/iso9660.h"

/* The files of the seed as they will be. */
struct seed {
    struct strbuf user_data, vendor_data, meta_data, network_config;
};

static int add_file(struct strbuf *to, const char *what, const char *path, struct error *err)
{
    struct blob b;
    int r = blob_read(&b, what, path, CLOUD_INIT_FILE_MAX, err);

    if (r == -EFBIG)
        return error_set(err, EFBIG, "%s '%s' is larger than %u MiB", what, path, CLOUD_INIT_FILE_MAX >> 20);
    if (r)
        return r;
    strbuf_add(to, (const char *)b.data, b.size);
    blob_release(&b);
    return 0;
}

/* --- keys --- */

static bool is_key(const char *line)
{
    static const char *const kinds[] = {"ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"};

    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        const char *at = strstr(line, kinds[i]);
        if (at && (at == line || at[-1] == ' ')) /* options may stand before it */
            return true;
    }
    return false;
}

/* A string of YAML, which knows the escapes of JSON. */
static void add_quoted(struct strbuf *b, const char *text)
{
    strbuf_add(b, "\"", 1);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            strbuf_add(b, "\\", 1);
        strbuf_add(b, iscntrl((u8)*text) ? " " : text, 1);
    }
    strbuf_add(b, "\"", 1);
}

static int add_keys_of(struct strbuf *to, char *text, const char *path, struct error *err)
{
    unsigned keys = 0;

    for (char *line; (line = strsep(&text, "\r\n"));) {
        line += strspn(line, " \t");
        if (!*line || *line == '#')
            continue;
        if (!strncmp(line, "-----BEGIN", 10))
            return error_set(err, EINVAL, "ssh key '%s' is a private key: give the file with .pub", path);
        if (!is_key(line))
            return error_set(err, EINVAL, "ssh key '%s': '%.40s' is not a public key", path, line);
        strbuf_addf(to, "  - ");
        add_quoted(to, line);
        strbuf_addf(to, "\n");
        keys++;
    }
    return keys ? 0 : error_set(err, EINVAL, "ssh key '%s' has no key in it", path);
}

static int add_keys(struct strbuf *to, const struct cloud_init *c, struct error *err)
{
    int r = 0;

    strbuf_addf(to, "public-keys:\n");
    for (unsigned i = 0; !r && i < c->ssh_key_count; i++) {
        struct strbuf text;
        strbuf_init(&text);
        r = add_file(&text, "ssh key", c->ssh_key[i], err);
        if (!r)
            r = add_keys_of(to, text.text, c->ssh_key[i], err);
        strbuf_release(&text);
    }
    return r;
}

/* --- meta-data --- */

/* Does a line begin with @key and a colon? */
static bool has_key(const struct strbuf *b, const char *key)
{
    size_t len = strlen(key);

    for (const char *line = b->text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, key, len) && line[len] == ':')
            return true;
    }
    return false;
}

/* Letters, digits, hyphens and dots are what a hostname is made of. */
static void add_hostname(struct strbuf *b, const char *name)
{
    strbuf_addf(b, "local-hostname: ");
    for (unsigned i = 0; name[i] && i < 63; i++) {
        bool good = isalnum((u8)name[i]) || (i && (name[i] == '-' || name[i] == '.'));
        strbuf_add(b, good ? &name[i] : "-", 1);
    }
    strbuf_addf(b, "\n");
}

static int make_meta_data(struct seed *s, const struct cloud_init *c, const char *name, const char *uuid,
                          struct error *err)
{
    struct strbuf *b = &s->meta_data;
    int r = c->meta_data ? add_file(b, "meta-data", c->meta_data, err) : 0;

    if (r)
        return r;
    if (b->text[strspn(b->text, " \t\r\n")] == '{') /* JSON, which is taken as it is */
        return c->ssh_key_count
                   ? error_set(err, EINVAL, "--ssh-key cannot be added to meta-data '%s', which is JSON",
                               c->meta_data)
                   : 0;
    if (b->len && b->text[b->len - 1] != '\n')
        strbuf_addf(b, "\n");
    if (!has_key(b, "instance-id"))
        strbuf_addf(b, "instance-id: %s\n", uuid);
    if (!has_key(b, "local-hostname"))
        add_hostname(b, name);
    if (!c->ssh_key_count)
        return 0;
    if (has_key(b, "public-keys"))
        return error_set(err, EINVAL, "--ssh-key and the public-keys of meta-data '%s' exclude each other",
                         c->meta_data);
    return add_keys(b, c, err);
}

/* --- the rest --- */

static int make_files(struct seed *s, const struct cloud_init *c, const char *name, const char *uuid,
                      struct error *err)
{
    int r = make_meta_data(s, c, name, uuid, err);

    if (!r && c->user_data)
        r = add_file(&s->user_data, "user-data", c->user_data, err);
    else if (!r)
        strbuf_addf(&s->user_data, "#cloud-config\n{}\n");
    if (!r && c->network_config)
        r = add_file(&s->network_config, "network-config", c->network_config, err);
    /* Else a key would let only the distribution's own user in. User data has the last word. */
    if (!r && c->ssh_key_count)
        strbuf_addf(&s->vendor_data, "#cloud-config\ndisable_root: false\n");
    if (!r && (s->meta_data.failed || s->user_data.failed || s->network_config.failed))
        r = error_set_errno(err, ENOMEM, "cannot make the cloud-init seed");
    return r;
}

static int write_memory_file(const u8 *data, size_t size, int *fd, struct error *err)
{
    *fd = memfd_create("cloud-init", MFD_CLOEXEC);
    if (*fd < 0)
        return error_set_errno(err, errno, "cannot make a file in memory");
    for (size_t done = 0; done < size;) {
        ssize_t n = write(*fd, data + done, size - done);
        if (n < 0) {
            int r = error_set_errno(err, errno, "cannot write a file in memory");
            close(*fd);
            return r;
        }
        done += (size_t)n;
    }
    return 0;
}

static int write_seed(const struct seed *s, int *fd, struct error *err)
{
    const struct iso9660_file files[] = {
        {"meta-data", s->meta_data.text, s->meta_data.len},
        {"user-data", s->user_data.text, s->user_data.len},
        {"vendor-data", s->vendor_data.text, s->vendor_data.len},
        {"network-config", s->network_config.text, s->network_config.len}, /* left out when there is none */
    };
    unsigned count = ARRAY_SIZE(files) - !s->network_config.len;
    u8 *image;
    size_t size;
    int r = iso9660_build("cidata", files, count, time(NULL), &image, &size, err);

    if (r)
        return r;
    r = write_memory_file(image, size, fd, err);
    free(image);
    return r;
}

int cloud_init_seed(const struct cloud_init *c, const char *name, const char *uuid, int *fd,
                    struct error *err)
{
    struct seed s;

    strbuf_init(&s.user_data);
    strbuf_init(&s.vendor_data);
    strbuf_init(&s.meta_data);
    strbuf_init(&s.network_config);
    int r = make_files(&s, c, name, uuid, err);
    if (!r)
        r = write_seed(&s, fd, err);
    strbuf_release(&s.user_data);
    strbuf_release(&s.vendor_data);
    strbuf_release(&s.meta_data);
    strbuf_release(&s.network_config);
    return r;
}
